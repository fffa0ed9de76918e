"""Prefix LM and packed documents: torch's SDPA, one call per document.

Goes out: prefix_lm_*, doc_* goldens.
"""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from common import additive, generator, indices, normal, qkv, write


def prefix():
    """One prefix length per sequence, 0 and beyond the end among them."""
    for name, b, s, d, lengths in [("prefix_lm_33_d32", 3, 33, 32, [0, 10, 33]), ("prefix_lm_129_d32", 1, 129, 32, [77])]:
        q, k, v = qkv(generator(name), b, 1, s, d)
        prefix = torch.tensor(lengths, dtype=torch.int32)
        i, j = indices(q, k)
        m = ((j <= i)[None] | (j[None] < prefix[:, None, None]))[:, None]
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=m)
        lse = torch.logsumexp(q.double() @ k.double().transpose(-1, -2) / d**0.5 + additive(m), -1)
        call = "torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=m) on f64 copies; lse = torch.logsumexp(f64 scores)"
        write(name, "prefix_lm.attn", "prefix_lm", dict(B=b, H=q.shape[1], S=s, D=d), dict(q=q, k=k, v=v, prefix=prefix), dict(o=o, lse=lse), call)


def documents():
    """Documents of several lengths, 1 among them, two rows of a batch cut differently."""
    name = "doc_causal_129_d32"
    q, k, v = qkv(generator(name), 2, 1, 129, 32)
    cuts = [[1, 17, 33, 65, 13], [100, 29]]
    o, lse = torch.zeros(q.shape, dtype=torch.float64), torch.zeros(q.shape[:3], dtype=torch.float64)
    doc = torch.zeros(2, 129, dtype=torch.int32)
    for b, lengths in enumerate(cuts):
        start = 0
        for n, length in enumerate(lengths):
            part = [x[b : b + 1, :, start : start + length].double() for x in (q, k, v)]
            o[b, :, start : start + length] = F.scaled_dot_product_attention(*part, is_causal=True)[0]
            s = part[0] @ part[1].transpose(-1, -2) / 32**0.5
            lse[b, :, start : start + length] = torch.logsumexp(s + additive(torch.ones(length, length).tril().bool()), -1)[0]
            doc[b, start : start + length] = n
            start += length
    call = "torch.nn.functional.scaled_dot_product_attention(part, is_causal=True), one call per document, on f64 copies"
    write(name, "documents.attn", "doc_causal", dict(B=2, H=1, S=129, D=32), dict(q=q, k=k, v=v, doc=doc), dict(o=o, lse=lse), call,
          note="document lengths [1, 17, 33, 65, 13] and [100, 29]")


def packed():
    """(T, H, D) layout, grouped heads, Llama's rotary positions from 0 in each document."""
    name = "doc_packed_rope_98_d32"
    gen = generator(name)
    lengths, t, d = [17, 1, 47, 33], 98, 32
    q, k, v = normal(gen, t, 4, d), normal(gen, t, 2, d), normal(gen, t, 2, d)
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=4 * d, num_attention_heads=4, rope_parameters=dict(rope_type="default", rope_theta=500000.0)))
    o = torch.zeros(q.shape, dtype=torch.float64)
    doc, pos, start = torch.zeros(t, dtype=torch.int32), torch.zeros(t, dtype=torch.int32), 0
    for n, length in enumerate(lengths):
        part = slice(start, start + length)
        cos, sin = rotary(q, torch.arange(length)[None])
        one = [x[part].transpose(0, 1)[None].double() for x in (q, k, v)]
        turned = apply_rotary_pos_emb(one[0], one[1], cos.double(), sin.double())
        o[part] = F.scaled_dot_product_attention(*turned, one[2], is_causal=True, enable_gqa=True)[0].transpose(0, 1)
        doc[part], pos[part], start = n, torch.arange(length), start + length
    call = "per document: LlamaRotaryEmbedding(theta=500000) (f32 cos, sin), apply_rotary_pos_emb in f64, then SDPA(is_causal=True, enable_gqa=True) in f64"
    write(name, "documents.attn", "doc_packed", dict(T=t, Hq=4, Hkv=2, D=d), dict(q=q, k=k, v=v, doc=doc, pos=pos), dict(o=o), call, "transformers",
          note="q, k, v, o are stored (T, H, D), the layout that the specification names; documents of 17, 1, 47, 33")


def main():
    """Writes the whole family."""
    prefix()
    documents()
    packed()


if __name__ == "__main__":
    main()
