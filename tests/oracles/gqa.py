"""Grouped and interleaved key heads; torch's scaled_dot_product_attention. One key head at decode: GPTBigCodeAttention.

Goes out: gqa_* goldens in f32, f16 and bf16, mqa_decode_*.
"""

import torch
import torch.nn.functional as F
from transformers import DynamicCache, GPTBigCodeConfig
from transformers.models.gpt_bigcode.modeling_gpt_bigcode import GPTBigCodeAttention

from common import FLEX, Fixed, additive, flex, generator, merge_heads, normal, split_heads, write

SDPA = "torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True) on f64 copies; lse = torch.logsumexp(f64 scores)"


def lse_of(q, k_expanded):
    """Natural-log LSE of the causal scores, keys already expanded to the query heads."""
    s = q.double() @ k_expanded.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    return torch.logsumexp(s + additive(torch.ones(s.shape[-2:]).tril().bool()), -1)


def mqa_decode():
    """The last token of a multi-query model, its keys and values in a cache."""
    h, s, d = 8, 50, 16
    name = f"mqa_decode_{h}over1_1x{s}_d{d}"
    gen = generator(name)
    q, k, v = normal(gen, 2, h, 1, d), normal(gen, 2, 1, s, d), normal(gen, 2, 1, s, d)
    config = GPTBigCodeConfig(n_embd=h * d, n_head=h, multi_query=True, attn_pdrop=0.0, attention_softmax_in_fp32=False, attn_implementation="eager")
    module = GPTBigCodeAttention(config, layer_idx=0).double().eval()
    module.c_attn, module.c_proj = Fixed(torch.cat([merge_heads(q), k[:, 0, -1:], v[:, 0, -1:]], -1).double()), torch.nn.Identity()
    cache = DynamicCache()
    cache.update(k[:, :, :-1].double(), v[:, :, :-1].double(), 0)
    o = split_heads(module(torch.zeros(2, 1, h * d, dtype=torch.float64), layer_past=cache)[0], h)
    lse = torch.logsumexp(q.double() @ k.double().mT / d**0.5, -1)
    call = "GPTBigCodeAttention(multi_query=True).double()(x, layer_past=49 tokens), projection fixed; lse = torch.logsumexp(f64 scores)"
    write(name, "gqa.attn", "gqa_chunk", dict(B=2, Hq=h, Hkv=1, Sq=1, Sk=s, D=d), dict(q=q, k=k, v=v), dict(o=o, lse=lse), call, "transformers")


def main():
    """Writes the whole family."""
    for hq, hkv, s, d, dtype in [(4, 2, 33, 32, "f32"), (6, 1, 17, 80, "f32"), (8, 2, 33, 32, "f16"), (8, 2, 33, 32, "bf16")]:
        name = f"gqa_causal_{hq}over{hkv}_{s}_d{d}" + ("" if dtype == "f32" else f"_{dtype}")
        gen = generator(name)
        q = normal(gen, 1, hq, s, d, dtype=dtype)
        k, v = (normal(gen, 1, hkv, s, d, dtype=dtype) for _ in range(2))
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True, enable_gqa=True)
        outputs = dict(o=o, lse=lse_of(q, k.repeat_interleave(hq // hkv, 1)))
        if dtype != "f32":
            outputs["o_low"] = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        dims = dict(B=1, Hq=hq, Hkv=hkv, S=s, D=d)
        write(name, "gqa.attn", "gqa_causal", dims, dict(q=q, k=k, v=v), outputs, SDPA, dtype=dtype)

    name = "gqa_interleaved_4over2_33_d32"
    gen = generator(name)
    q, k, v = normal(gen, 1, 4, 33, 32), normal(gen, 1, 2, 33, 32), normal(gen, 1, 2, 33, 32)
    k4, v4 = k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)
    o = F.scaled_dot_product_attention(q.double(), k4.double(), v4.double(), is_causal=True)
    call = "torch.nn.functional.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1), is_causal=True) on f64 copies; lse = torch.logsumexp(f64 scores)"
    dims = dict(B=1, Hq=4, Hkv=2, S=33, D=32)
    write(name, "gqa.attn", "gqa_interleaved", dims, dict(q=q, k=k, v=v), dict(o=o, lse=lse_of(q, k4)), call, note="key head = h mod Hkv")

    for sq, sk, d in [(1, 129, 32), (8, 65, 64)]:
        name = f"gqa_chunk_8over2_{sq}x{sk}_d{d}"
        gen = generator(name)
        q, k, v = normal(gen, 1, 8, sq, d), normal(gen, 1, 2, sk, d), normal(gen, 1, 2, sk, d)
        o, lse = flex(q, k, v, lambda b, h, i, j, shift=sk - sq: j <= i + shift, enable_gqa=True)
        dims = dict(B=1, Hq=8, Hkv=2, Sq=sq, Sk=sk, D=d)
        write(name, "gqa.attn", "gqa_chunk", dims, dict(q=q, k=k, v=v), dict(o=o, lse=lse), FLEX + ", enable_gqa=True, mask j <= i + Sk - Sq")
    mqa_decode()


if __name__ == "__main__":
    main()
