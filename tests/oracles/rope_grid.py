"""The cells of pairing by scaling that no other script fills: transformers' frequencies (x-transformers' for the NTK-aware base)
under GPT-J's rotation, under GPT-NeoX's of the first half of a row, and under Llama's; causal SDPA after them.

Goes out: rope_grid_* goldens of one shape. Angles, cos and sin are f32 as in the packages, the rotation and the attention f64.
The second oracle is that of `rope_scaling`. What a cell shows: which width the frequencies of a partial rotation follow, and
that an attention factor multiplies the features that turn and no others.
"""

import math

import torch
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as neox_rotate
from x_transformers import x_transformers

from common import generator, qkv, write_twice
from rope import half, interleaved
from rope_scaling import attend, formula, hf_freqs, powers, table, yarn

S, D = 33, 16
LONG = [1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 14.0, 16.0]


def x_ntk(n, factor):
    """Frequencies of n features with x-transformers' rescaled base."""
    return x_transformers.RotaryEmbedding(n, base_rescale_factor=factor).inv_freq, 1.0


def rules(n):
    """By name: frequencies (f32) and factor of a package for n turned features, and the same by formula in f64."""
    plain, lists = powers(n, 1e4), LONG[: n // 2]
    share = ((128 * plain / (2 * math.pi) - 1) / 3).clamp(0, 1)
    base = 1e4 * (4 * S / 16 - 3) ** (n / (n - 2))
    rope = dict(rope_theta=1e4, partial_rotary_factor=n / D)
    return {
        "pi": (hf_freqs("linear", D, factor=4.0, **rope), plain / 4, 1.0),
        "ntk": (x_ntk(n, 4.0), powers(n, 1e4 * 4 ** (n / (n - 2))), 1.0),
        "dyn_ntk": (hf_freqs("dynamic", D, S, 16, factor=4.0, **rope), powers(n, base), 1.0),
        "yarn": (hf_freqs("yarn", D, factor=8.0, original_max_position_embeddings=64, **rope), yarn(n, 1e4, 8, 64), 0.1 * math.log(8) + 1),
        "llama3": (
            hf_freqs("llama3", D, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128, **rope),
            share * plain + (1 - share) * plain / 8,
            1.0,
        ),
        "longrope": (
            hf_freqs("longrope", D, S, factor=4.0, original_max_position_embeddings=16, short_factor=[1.0] * (n // 2), long_factor=lists, **rope),
            plain / torch.tensor(lists, dtype=torch.float64),
            math.sqrt(1 + math.log(4) / math.log(16)),
        ),
    }


def cell(style, rule):
    """One golden: q and k turned in a style with the frequencies of a rule."""
    n = D // 2 if style == "partial" else D
    (inv, factor), own, own_factor = rules(n)[rule]
    name = f"rope_grid_{style}_{rule}"
    q, k, v = qkv(generator(name), 1, 2, S, D)
    pos = torch.arange(S)[None]
    cos, sin = table(inv, pos, factor)
    if style == "partial":
        qr, kr = neox_rotate(q.double(), k.double(), cos.double(), sin.double())
    else:
        qr, kr = interleaved(q, k, cos, sin) if style == "interleaved" else half(q, k, cos, sin, D)
    who = "x-transformers" if rule == "ntk" else "transformers"
    key = {"pi": "linear", "dyn_ntk": "dynamic"}.get(rule, rule)
    freqs = f"x_transformers.RotaryEmbedding({n}, base_rescale_factor=4).inv_freq" if rule == "ntk" else f"ROPE_INIT_FUNCTIONS['{key}'], {n} of {D} features"
    rotation = {"half": "llama", "interleaved": "gptj", "partial": "gpt_neox"}[style]
    lists = dict(short=torch.ones(n // 2), long=torch.tensor(LONG[: n // 2])) if rule == "longrope" else {}
    write_twice(
        name,
        f"rope, {style}, {rule}",
        "rope_grid.attn",
        f"{style}_{rule}",
        dict(B=1, H=2, S=S, D=D) | ({"P": n // 2} if lists else {}),
        dict(q=q, k=k, v=v) | lists,
        dict(o=attend(qr, kr, v)),
        dict(o=formula(q, k, v, own, pos, pos, style == "interleaved", own_factor)[0]),
        f"{freqs}, angles f32, transformers' {rotation} apply_rotary_pos_emb and SDPA in f64",
        who,
        limit=4e-6,
    )


def main():
    """Writes the whole family."""
    cell("half", "ntk")
    for rule in ("pi", "dyn_ntk", "llama3", "longrope"):
        cell("interleaved", rule)
    for rule in ("pi", "ntk", "dyn_ntk", "yarn", "llama3", "longrope"):
        cell("partial", rule)


if __name__ == "__main__":
    main()
