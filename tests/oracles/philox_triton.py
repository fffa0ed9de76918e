"""Philox4x32-10 by Triton's interpreter: the second oracle of `weights.philox`.

Comes in: rows of six integers (seed low, seed high, four counter words) as text on stdin. Goes out: four words a row. A
process of its own, since Triton decides between compiler and interpreter when it is imported.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
import triton.language as tl


@triton.jit
def draw(rows, out, n: tl.constexpr):
    at = tl.arange(0, n) * 6
    k0, k1 = tl.load(rows + at).to(tl.uint32, bitcast=True), tl.load(rows + at + 1).to(tl.uint32, bitcast=True)
    c0, c1 = tl.load(rows + at + 2).to(tl.uint32, bitcast=True), tl.load(rows + at + 3).to(tl.uint32, bitcast=True)
    c2, c3 = tl.load(rows + at + 4).to(tl.uint32, bitcast=True), tl.load(rows + at + 5).to(tl.uint32, bitcast=True)
    a, b, c, d = tl.random.philox_impl(c0, c1, c2, c3, k0, k1)
    to = tl.arange(0, n) * 4
    tl.store(out + to, a.to(tl.int32, bitcast=True))
    tl.store(out + to + 1, b.to(tl.int32, bitcast=True))
    tl.store(out + to + 2, c.to(tl.int32, bitcast=True))
    tl.store(out + to + 3, d.to(tl.int32, bitcast=True))


if __name__ == "__main__":
    rows = np.array([[int(x) for x in line.split()] for line in sys.stdin], dtype=np.uint32)
    n = 1 << max(len(rows) - 1, 1).bit_length()
    padded = np.zeros((n, 6), dtype=np.uint32)
    padded[: len(rows)] = rows
    out = torch.zeros(n, 4, dtype=torch.int32)
    draw[(1,)](torch.from_numpy(padded.view(np.int32)), out, n)
    for row in out[: len(rows)].numpy().view(np.uint32):
        print(*row)
