"""Sliding windows: transformers' mask function through SDPA, LongformerSelfAttention itself, and FlashAttention's window in
its (left, right) form, for which xformers has a mask that needs no kernel.

Goes out: window_* goldens.
"""

import logging
import math

import torch
import torch.nn.functional as F
from transformers import LongformerConfig
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from common import Fixed, additive, dense, dots, generator, indices, merge_heads, normal, qkv, split_heads, write, write_twice

logging.disable(logging.WARNING)  # xformers says that its kernels do not load
from xformers.ops.fmha.attn_bias import LocalAttentionFromBottomRightMask  # noqa: E402

logging.disable(logging.NOTSET)


def hf_window(w, q, k):
    """The boolean mask of transformers for causal windows, queries at the end of the keys."""
    i, j = indices(q, k, "bottom_right")
    zero = torch.zeros_like(i + j)
    return sliding_window_causal_mask_function(w)(zero, zero, i + zero, j + zero)


def longformer(q, k, v, w, glob=None):
    """Output of LongformerSelfAttention in f64 but for its f32 softmax; the global projections are the local ones."""
    b, h, s, d = q.shape
    config = LongformerConfig(hidden_size=h * d, num_attention_heads=h, attention_window=[2 * w], attention_probs_dropout_prob=0.0)
    module = LongformerSelfAttention(config, 0).double().eval()
    for suffix in ("", "_global"):
        for part, x in (("query", q), ("key", k), ("value", v)):
            setattr(module, part + suffix, Fixed(merge_heads(x).double().transpose(0, 1)))
    if glob is None:
        glob = torch.zeros(b, s, dtype=torch.bool)
    module.query_global.value = module.query_global.value[glob[0]]  # asked for the global rows only
    mask = torch.zeros(b, s, dtype=torch.float64).masked_fill(glob, 10000.0)
    hidden = torch.zeros(b, s, h * d, dtype=torch.float64)
    o = module(hidden, mask, torch.zeros(b, s, dtype=torch.bool), glob, bool(glob.any()))[0]
    return split_heads(o, h)


def flash():
    """FlashAttention's window_size=(left, right): left + 1 + right keys, queries at the end of the keys."""
    h, d = 2, 16
    for left, right, sq, sk in [(7, 0, 65, 65), (7, 3, 17, 45), (5, 5, 1, 33)]:
        name = f"window_fa_l{left}_r{right}_{sq}x{sk}"
        gen = generator(name)
        q, k, v = normal(gen, 1, h, sq, d), normal(gen, 1, h, sk, d), normal(gen, 1, h, sk, d)
        bias = LocalAttentionFromBottomRightMask(window_left=left, window_right=right).materialize((sq, sk), dtype=torch.float64)
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=bias)
        score = dots(q, k) / math.sqrt(d)
        i, j = indices(q, k, "bottom_right")
        second = dense(score, v, (j >= i - left) & (j <= i + right))
        write_twice(
            name,
            "window (left, right) as in FlashAttention",
            "window.attn",
            "window_sides",
            dict(B=1, H=h, Sq=sq, Sk=sk, D=d),
            dict(q=q, k=k, v=v),
            dict(o=o, lse=torch.logsumexp(score + bias, -1)),
            dict(o=second[0], lse=second[1]),
            f"xformers LocalAttentionFromBottomRightMask({left}, {right}).materialize(({sq}, {sk})) as SDPA's attn_mask in f64",
            "xformers",
            params=dict(left=left, right=right),
            note="the same convention as flash_attn_func(window_size=(left, right)), whose kernels need a GPU",
        )


def main():
    """Writes the whole family."""
    call = "torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=transformers.masking_utils.sliding_window_causal_mask_function(W)(...)) on f64 copies"
    for w, sq, sk, d in [(1, 129, 129, 32), (7, 129, 129, 32), (64, 129, 129, 32), (7, 17, 65, 80), (64, 1, 129, 32), (7, 33, 17, 32)]:
        name = f"window_causal_w{w}_{sq}x{sk}"
        gen = generator(name)
        h = 1 if sq == 129 or d == 80 else 2
        q, k, v = normal(gen, 1, h, sq, d), normal(gen, 1, h, sk, d), normal(gen, 1, h, sk, d)
        m = hf_window(w, q, k)
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=m)
        lse = torch.logsumexp(q.double() @ k.double().transpose(-1, -2) / d**0.5 + additive(m), -1)
        write(name, "window.attn", "window_causal", dict(B=1, H=h, Sq=sq, Sk=sk, D=d), dict(q=q, k=k, v=v), dict(o=o, lse=lse), call, "transformers", dict(W=w))

    call = "LongformerSelfAttention(attention_window=2 w).double()(x, ...), projections fixed"
    for w, s in [(8, 80), (16, 64)]:
        name = f"window_longformer_w{w}_{s}"
        q, k, v = qkv(generator(name), 1, 2, s, 32)
        write(name, "window.attn", "window_both", dict(B=1, H=2, S=s, D=32), dict(q=q, k=k, v=v), dict(o=longformer(q, k, v, w)), call, "transformers", dict(w=w),
              note="softmax inside is f32")
    name = "window_longformer_global_128"
    q, k, v = qkv(generator(name), 1, 1, 128, 32)
    glob = torch.zeros(1, 128, dtype=torch.bool)
    glob[0, [0, 1, 50, 127]] = True
    o = longformer(q, k, v, 8, glob)
    write(name, "window.attn", "window_global", dict(B=1, H=1, S=128, D=32), dict(q=q, k=k, v=v, glob=glob), dict(o=o), call, "transformers", dict(w=8),
          note="global tokens 0, 1, 50, 127; their separate projections are set to the local ones; softmax inside is f32")
    flash()


if __name__ == "__main__":
    main()
