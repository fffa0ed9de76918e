"""Scores by distance: transformers' Wav2Vec2-BERT (Shaw), LongT5, T5 with a cache, Falcon; x-transformers' ALiBi.

Goes out: shaw_*, longt5_local_*, t5_decode_*, alibi_falcon_*, alibi_both_* goldens. Modules run in f64.
"""

import math

import torch
import torch.nn.functional as F
from transformers import FalconConfig, LongT5Config, T5Config, Wav2Vec2BertConfig
from transformers.models.falcon.modeling_falcon import FalconAttention, build_alibi_tensor
from transformers.models.longt5 import modeling_longt5
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from x_transformers.x_transformers import AlibiPositionalBias

from common import WIDE, Fixed, additive, dense, dots, generator, merge_heads, normal, qkv, split_heads, widened, write_twice


def t5_bucket(n, buckets, far):
    """T5's bucket of a distance, by the exact rule on integers: (r / e)^e >= (far / e)^m."""
    e = buckets // 2
    if n < e:
        return n
    m = 0
    while m < buckets - 1 - e and n**e * e ** (m + 1) >= far ** (m + 1) * e**e:
        m += 1
    return e + m


def t5_both(d):
    """Bucket of j - i for an encoder with 32 buckets up to 128."""
    return (16 if d > 0 else 0) + t5_bucket(abs(d), 16, 128)


def distances(sq, sk=None, end=False):
    """j - i as a matrix."""
    sk = sk or sq
    return torch.arange(sk)[None] - torch.arange(sq)[:, None] - (sk - sq if end else 0)


def table(rel, far, rule):
    """rel [H, R] spread over the pairs by a rule of the distance, as [H, Sq, Sk] f64."""
    at = torch.tensor([[rule(d) for d in row] for row in far.tolist()])
    return rel.double()[:, at]


def shaw():
    """Wav2Vec2-BERT's relative_key."""
    s, d, h, left, right = 33, 32, 2, 12, 5
    gen = generator("shaw")
    q, k, v = qkv(gen, 2, h, s, d)
    rel = normal(gen, left + right + 1, d)
    config = Wav2Vec2BertConfig(
        hidden_size=h * d,
        num_attention_heads=h,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=left,
        right_max_position_embeddings=right,
        attn_implementation="eager",
    )
    module = Wav2Vec2BertSelfAttention(config).double().eval()
    module.linear_q, module.linear_k, module.linear_v = (Fixed(merge_heads(x).double()) for x in (q, k, v))
    module.linear_out, module.distance_embedding = torch.nn.Identity(), torch.nn.Embedding.from_pretrained(rel.double())
    o = split_heads(module(torch.zeros(2, s, h * d, dtype=torch.float64))[0], h)
    far = distances(s).clamp(-left, right) + left
    bias = torch.gather(q.double() @ rel.double().T, -1, far.expand(2, h, s, s))
    write_twice(
        f"shaw_{s}_d{d}",
        "Shaw's relative table",
        "shaw.attn",
        "shaw",
        dict(B=2, H=h, S=s, D=d, R=left + right + 1),
        dict(q=q, k=k, v=v, rel=rel),
        dict(o=o),
        dict(o=dense((dots(q, k) + bias) / math.sqrt(d), v)[0]),
        f"Wav2Vec2BertSelfAttention(position_embeddings_type='relative_key', left {left}, right {right}).double()(x), projections fixed, eager",
        "transformers",
        params=dict(left=left, right=right),
    )


def longt5(s, d, radius):
    """LongT5's local attention."""
    name, h = f"longt5_local_{s}_r{radius}", 2
    gen = generator("longt5_local" if s == 65 else name)
    q, k, v = qkv(gen, 1, h, s, d)
    q, rel = q * d**-0.5, normal(gen, h, 32)
    module = modeling_longt5.LongT5LocalAttention(LongT5Config(d_model=h * d, d_kv=d, num_heads=h, local_radius=radius, dropout_rate=0.0), True).double().eval()
    module.q, module.k, module.v = (Fixed(merge_heads(x).double()) for x in (q, k, v))
    module.o = torch.nn.Identity()
    module.relative_attention_bias.weight.copy_(rel.T.double())
    mask = modeling_longt5._get_local_attention_mask(torch.ones(1, s, dtype=torch.bool), module.block_len, "cpu")
    with widened():
        o = split_heads(module(torch.zeros(1, s, h * d, dtype=torch.float64), mask=mask)[0], h)
    far = distances(s)
    write_twice(
        name,
        "LongT5, local",
        "relative.attn",
        "longt5_local",
        dict(B=1, H=h, S=s, D=d, R=32),
        dict(q=q, k=k, v=v, rel=rel),
        dict(o=o),
        dict(o=dense(dots(q, k) + table(rel, far, t5_both), v, far.abs() <= radius)[0]),
        f"LongT5LocalAttention(local_radius={radius}).double()(x, mask=_get_local_attention_mask(...)), projections fixed",
        "transformers",
        params=dict(radius=radius),
        note=WIDE,
    )


def t5_decode():
    """T5's decoder bias for the last queries."""
    sq, sk, d, h = 5, 129, 32, 2
    gen = generator("t5_decode")
    q, k, v = normal(gen, 1, h, sq, d, scale=d**-0.5), normal(gen, 1, h, sk, d), normal(gen, 1, h, sk, d)
    rel = normal(gen, h, 32)
    module = T5Attention(T5Config(d_model=h * d, d_kv=d, num_heads=h, is_decoder=True), has_relative_attention_bias=True, layer_idx=0, is_causal=True).double()
    module.relative_attention_bias.weight.copy_(rel.T.double())
    bias = module.compute_bias(sq, sk, past_seen_tokens=sk - sq)
    far = distances(sq, sk, True)
    o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=bias + additive(far <= 0), scale=1.0)
    own = table(rel, far, lambda x: t5_bucket(max(-x, 0), 32, 128))
    write_twice(
        f"t5_decode_{sq}x{sk}",
        "T5, decoder with a cache",
        "relative.attn",
        "t5_decode",
        dict(B=1, H=h, Sq=sq, Sk=sk, D=d, R=32),
        dict(q=q, k=k, v=v, rel=rel),
        dict(o=o),
        dict(o=dense(dots(q, k) + own, v, far <= 0)[0]),
        f"T5Attention.compute_bias({sq}, {sk}, past_seen_tokens={sk - sq}), SDPA(scale=1) in f64",
        "transformers",
    )


def alibi():
    """Falcon's order of bias and scale; both directions."""
    s, d, h = 33, 32, 4
    q, k, v = qkv(generator("alibi_falcon"), 1, h, s, d)
    config = FalconConfig(
        hidden_size=h * d, num_attention_heads=h, multi_query=False, new_decoder_architecture=False, alibi=True, bias=False, attn_implementation="eager"
    )
    module = FalconAttention(config, 0).double().eval()
    fused = torch.stack([x.double().transpose(1, 2) for x in (q, k, v)], 3)
    module.query_key_value, module.dense = Fixed(fused.reshape(1, s, 3 * h * d)), torch.nn.Identity()
    far = distances(s)
    bias = build_alibi_tensor(torch.ones(1, s, dtype=torch.int64), h, torch.float64)
    o = split_heads(module(torch.zeros(1, s, h * d, dtype=torch.float64), bias, additive(far <= 0)[None, None], output_attentions=True)[0], h)
    slope = 2.0 ** (-8 * torch.arange(1, h + 1, dtype=torch.float64) / h)
    score = (dots(q, k) + slope[:, None, None] * far) / math.sqrt(d)
    write_twice(
        f"alibi_falcon_h{h}_{s}",
        "ALiBi, scaled with the score (Falcon)",
        "relative.attn",
        "alibi_falcon",
        dict(B=1, H=h, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=o),
        dict(o=dense(score, v, far <= 0)[0]),
        f"FalconAttention(alibi=True).double()(x, build_alibi_tensor(mask, {h}, f64), mask), projection fixed",
        "transformers",
        note="the slopes of 4 heads and their products up to 32 are exact in bf16",
    )

    for s, h, d in [(33, 3, 32), (17, 8, 16), (17, 12, 16), (13, 40, 16)]:
        both(s, h, d)


def both(s, h, d):
    """ALiBi of an encoder with any number of heads."""
    name = f"alibi_both_h{h}_{s}"
    q, k, v = qkv(generator("alibi_both" if h == 3 else name), 1, h, s, d)
    module = AlibiPositionalBias(h).double()
    bias = module(s, s)
    o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=bias[None])
    lse = torch.logsumexp(dots(q, k) / math.sqrt(d) + bias, -1)
    p = 1 << (h.bit_length() - 1)
    slope = torch.tensor([2.0 ** (-8 * (n + 1) / p) for n in range(p)] + [2.0 ** (-4 * (2 * n + 1) / p) for n in range(h - p)], dtype=torch.float64)
    o2, lse2 = dense(dots(q, k) / math.sqrt(d) - slope[:, None, None] * distances(s).abs(), v)
    write_twice(
        name,
        "ALiBi in both directions",
        "relative.attn",
        "alibi_both",
        dict(B=1, H=h, S=s, D=d),
        dict(q=q, k=k, v=v, slope=module.slopes.flatten().float()),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        f"x_transformers AlibiPositionalBias({h}).double()({s}, {s}) as SDPA's attn_mask in f64",
        "x-transformers",
    )


def main():
    """Writes the whole family."""
    shaw()
    longt5(65, 32, 20)
    longt5(49, 16, 12)
    t5_decode()
    alibi()


if __name__ == "__main__":
    main()
