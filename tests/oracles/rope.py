"""Rotary positions: transformers' frequency rules and rotations (Llama, GPT-J), causal SDPA after them.

Goes out: rope_* goldens. Angles, cos and sin are f32 as in the package; the rotation and attention are f64.
"""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as gptj_rotate
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from common import generator, qkv, write


def tables(d, pos, **rope):
    """cos and sin [1, S, d] of LlamaRotaryEmbedding, f32."""
    config = LlamaConfig(hidden_size=2 * d, num_attention_heads=2, max_position_embeddings=512, rope_parameters=rope)
    return LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float32), pos)


def half(q, k, cos, sin, d):
    """Llama's rotation of the first d features."""
    a, b = apply_rotary_pos_emb(q[..., :d].double(), k[..., :d].double(), cos.double(), sin.double())
    return torch.cat([a, q[..., d:].double()], -1), torch.cat([b, k[..., d:].double()], -1)


def interleaved(q, k, cos, sin):
    """GPT-J's rotation, which takes [B, S, H, D] and tables of half width."""
    n = cos.shape[-1] // 2
    turn = lambda x: gptj_rotate(x.double().transpose(1, 2), sin[..., :n].double(), cos[..., :n].double()).transpose(1, 2)
    return turn(q), turn(k)


def main():
    """Writes the whole family."""
    base = dict(rope_type="default", rope_theta=10000.0)
    cases = [
        ("rope_half", 64, base),
        ("rope_interleaved", 64, base),
        ("rope_partial", 80, base),
        ("rope_pi", 32, dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
        ("rope_yarn", 32, dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0)),
        ("rope_llama3", 32, dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
    ]
    for kernel, d, rope in cases:
        s = 65 if d < 80 else 33
        gen, h = generator(kernel), 1 if d == 64 else 2
        q, k, v = qkv(gen, 1, h, s, d)
        inputs, pos = dict(q=q, k=k, v=v), torch.arange(s)[None]
        if kernel == "rope_partial":
            pos = torch.from_numpy(gen.integers(0, 512, (1, s)))
            inputs["pos"] = pos
        turned = 32 if kernel == "rope_partial" else d
        cos, sin = tables(turned, pos, **rope)
        qr, kr = interleaved(q, k, cos, sin) if kernel == "rope_interleaved" else half(q, k, cos, sin, turned)
        o = F.scaled_dot_product_attention(qr, kr, v.double(), is_causal=True)
        call = f"LlamaRotaryEmbedding({rope}) (f32), {'gptj' if 'inter' in kernel else 'llama'} apply_rotary_pos_emb in f64, SDPA(is_causal=True) in f64"
        write(f"{kernel}_{s}_d{d}", "rope.attn", kernel, dict(B=1, H=h, S=s, D=d), inputs, dict(o=o), call, "transformers")


if __name__ == "__main__":
    main()
