"""Static patterns: dilated, strided, fixed, chunked, one per head; torch's flex_attention.

The masks restate the definitions of attention-gym (dilated sliding window), of the Sparse Transformer
(strided, fixed) and call transformers' own for chunks; attention-gym's own makes pattern_dilated_gym. Goes out: pattern_*
goldens.
"""

import torch
from attn_gym.masks.dilated_sliding_window import generate_dilated_sliding_window
from transformers.masking_utils import chunked_causal_mask_function

from common import FLEX, flex, generator, qkv, write


def main():
    """Writes the whole family."""
    chunk = chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.long))
    cases = [
        ("dilated_both", dict(w=12, s=3), lambda b, h, i, j: ((i - j).abs() <= 12) & ((i - j) % 3 == 0)),
        ("strided", dict(l=8), lambda b, h, i, j: (i >= j) & ((i - j < 8) | ((i - j) % 8 == 0))),
        ("fixed", dict(l=16, c=3), lambda b, h, i, j: (i >= j) & ((i // 16 == j // 16) | (j % 16 >= 13))),
        ("chunked", dict(C=16), chunk),
        ("per_head", dict(l=8, W=5), lambda b, h, i, j: (i >= j) & torch.where(h % 2 == 0, (i - j) % 8 == 0, i - j < 5)),
    ]
    for n, (kernel, params, mask) in enumerate(cases):
        s = [129, 65, 129, 65, 65][n]
        name = f"pattern_{kernel}_{s}"
        q, k, v = qkv(generator(name), 1, 2 if s == 65 else 1, s, 32)
        o, lse = flex(q, k, v, mask)
        write(name, "patterns.attn", kernel, dict(B=1, H=q.shape[1], S=s, D=32), dict(q=q, k=k, v=v), dict(o=o, lse=lse), FLEX, params=params)
    name, s, d = "pattern_dilated_gym_45", 45, 16
    q, k, v = qkv(generator(name), 1, 2, s, d)
    o, lse = flex(q, k, v, generate_dilated_sliding_window(9, 4))
    call = "flex_attention with attn_gym.masks.generate_dilated_sliding_window(9, 4), eager, f64"
    write(name, "patterns.attn", "dilated_both", dict(B=1, H=2, S=s, D=d), dict(q=q, k=k, v=v), dict(o=o, lse=lse), call, "attn-gym", params=dict(w=9, s=4))


if __name__ == "__main__":
    main()
