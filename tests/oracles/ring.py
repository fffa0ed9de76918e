"""Ring attention: ring-attention-pytorch's flash attention on one rank, and every ring simulated in one process.

Goes out: ring_* goldens. What a ring returns is plain attention. The second oracle passes keys and values round for
1, 2, 4 and 8 ranks in the contiguous, striped and zigzag layout, merging partial results by their lse; all must agree.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from ring_attention_pytorch.ring_flash_attention import ring_flash_attn

from common import dense, dots, generator, normal, spread, write_twice
from relative import distances
from rope import half
from rope_scaling import hf_freqs, powers, table, turn
from windows import hf_window

LAYOUTS = ("contiguous", "striped", "zigzag")


def places(layout, s, ranks):
    """Global positions of every rank; chunks differ by at most one."""
    every = torch.arange(s)
    if layout == "striped":
        return [every[r::ranks] for r in range(ranks)]
    if layout == "contiguous":
        return list(every.tensor_split(ranks))
    chunks = every.tensor_split(2 * ranks)
    return [torch.cat([chunks[r], chunks[2 * ranks - 1 - r]]) for r in range(ranks)]


def ring(q, k, v, allowed, layout, ranks):
    """o and lse in f64: at step t rank r holds the keys of rank r - t; partial results are merged by lse."""
    b, h, s, d = q.shape
    o, lse = torch.zeros(b, h, s, v.shape[-1], dtype=torch.float64), torch.full((b, h, s), -math.inf, dtype=torch.float64)
    at = places(layout, s, ranks)
    for r in range(ranks):
        rows = at[r]
        for t in range(ranks):
            keys = at[(r - t) % ranks]
            a, l = dense(q[:, :, rows].double() @ k[:, :, keys].double().mT / math.sqrt(d), v[:, :, keys], allowed(rows[:, None], keys[None]))
            before = lse[:, :, rows]
            top = torch.maximum(before, l)
            base = torch.where(top.isfinite(), top, 0.0)
            total = torch.log(torch.exp(before - base) + torch.exp(l - base)) + base
            share = lambda x: torch.where(total.isfinite(), torch.exp(x - total), 0.0)[..., None]
            o[:, :, rows] = share(before) * o[:, :, rows] + share(l) * a
            lse[:, :, rows] = total
    return o, lse


def every_ring(name, q, k, v, allowed):
    """o and lse of the first ring, once all rings agree to 1e-12; the largest difference."""
    first, worst = None, 0.0
    for layout in LAYOUTS:
        for ranks in (1, 2, 4, 8):
            o, lse = ring(q, k, v, allowed, layout, ranks)
            first = first or (o, lse)
            worst = max(worst, (o - first[0]).abs().max().item(), (lse - first[1]).abs().max().item())
    if worst > 1e-12:
        raise ValueError(f"{name}: rings differ by {worst:.1e}")
    return *first, worst


def main():
    """Writes the whole family."""
    b, s, hq, hkv, d = 1, 67, 4, 2, 16
    for layout in LAYOUTS:
        name = f"ring_{layout}_{s}"
        gen = generator(name)
        q, k, v = normal(gen, b, hq, s, d), normal(gen, b, hkv, s, d), normal(gen, b, hkv, s, d)
        rows = [x.double().transpose(1, 2) for x in (q, spread(k, hq), spread(v, hq))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_default_dtype(torch.float64)  # the package forms its accumulators in the default type
            o = ring_flash_attn(*rows, None, True, 32, False, False, None).transpose(1, 2)
            torch.set_default_dtype(torch.float32)
        lse = torch.logsumexp((dots(q, k) / math.sqrt(d)).masked_fill(distances(s) > 0, -math.inf), -1)
        o2, lse2, worst = every_ring(name, q, spread(k, hq), spread(v, hq), lambda i, j: j <= i)
        write_twice(
            name,
            f"ring attention, {layout}",
            "ring.attn",
            f"ring_{layout}",
            dict(B=b, Hq=hq, Hkv=hkv, S=s, D=d),
            dict(q=q, k=k, v=v),
            dict(o=o, lse=lse),
            dict(o=o2, lse=lse2),
            "ring_attention_pytorch ring_flash_attn(q, k, v, None, causal=True, bucket_size=32) in f64 on one rank; lse by torch.logsumexp",
            "ring-attention-pytorch",
            by=f"own f64 rings of 1, 2, 4, 8 ranks in three layouts, equal to {worst:.0e}",
        )

    name, h, s, window = "ring_window_45", 2, 45, 13
    gen = generator(name)
    q, k, v = (normal(gen, b, h, s, d) for _ in range(3))
    pos = torch.arange(s)[None]
    cos, sin = table(hf_freqs("linear", d, rope_theta=1e4, factor=1.0)[0], pos)
    qr, kr = half(q, k, cos, sin, d)
    seen = hf_window(window, q, k)
    o = F.scaled_dot_product_attention(qr, kr, v.double(), attn_mask=seen)
    lse = torch.logsumexp((dots(qr, kr) / math.sqrt(d)).masked_fill(~seen, -math.inf), -1)
    inv = powers(d, 1e4)
    o2, lse2, worst = every_ring(name, turn(q, inv, pos), turn(k, inv, pos), v, lambda i, j: (j <= i) & (j > i - window))
    write_twice(
        name,
        "ring attention, zigzag, rope and a window",
        "ring.attn",
        "ring_window",
        dict(B=b, H=h, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        "llama apply_rotary_pos_emb (angles f32), SDPA with transformers' sliding window mask, f64",
        "transformers",
        params=dict(window=window),
        limit=4e-6,
        by=f"own f64 rings of 1, 2, 4, 8 ranks in three layouts, equal to {worst:.0e}",
    )


if __name__ == "__main__":
    main()
