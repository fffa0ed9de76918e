"""Attention in Triton, written for this comparison: online softmax over blocks of keys, forward only.

Comes in: q, k, v as (batch, heads, rows, features), a mask by numbers. Goes out: o. Kinds: full, causal, a window of keys, soft-capped
scores, grouped heads. Blocks that no query of a tile can see are not visited, and only blocks at an edge of the mask are masked. It is
what a good user writes in an afternoon, without warp specialisation; not a library.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def blocks(acc, m, l, q, k_at, v_at, stride_k, stride_v, first, past, rows, offset, sk, scale, cap,
           N: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr):
    """Blocks of keys from `first` to `past`."""
    columns, features = tl.arange(0, N), tl.arange(0, D)
    for start in range(first, past, N):
        key = start + columns
        inside = key < sk
        if MASKED:
            k = tl.load(k_at + key[None, :] * stride_k + features[:, None], mask=inside[None, :], other=0.0)
        else:
            k = tl.load(k_at + key[None, :] * stride_k + features[:, None])
        s = tl.dot(q, k)
        if CAP:
            t = s * (scale / cap)
            s = cap * (1 - 2 / (tl.exp2(t * 2.885390081777927) + 1)) * 1.4426950408889634
        else:
            s = s * (scale * 1.4426950408889634)
        if MASKED:
            seen = inside[None, :]
            if CAUSAL:
                seen = seen & (key[None, :] <= rows[:, None] + offset)
            if WINDOW > 0:
                seen = seen & (key[None, :] > rows[:, None] + offset - WINDOW)
            s = tl.where(seen, s, float("-inf"))
        top = tl.maximum(m, tl.max(s, 1))
        base = tl.where(top == float("-inf"), 0.0, top)
        p = tl.exp2(s - base[:, None])
        alpha = tl.exp2(m - base)
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        if MASKED:
            v = tl.load(v_at + key[:, None] * stride_v + features[None, :], mask=inside[:, None], other=0.0)
        else:
            v = tl.load(v_at + key[:, None] * stride_v + features[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc)
        m = top
    return acc, m, l


@triton.jit
def forward(q, k, v, o, qb, qh, qs, kb, kh, ks, vb, vh, vs, ob, oh, os, heads, group, sq, sk, scale, cap,
            M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr):
    """One tile of queries of one head."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    b = b.to(tl.int64)
    g = h // group
    rows, features = tile * M + tl.arange(0, M), tl.arange(0, D)
    held = rows < sq
    tile_q = tl.load(q + b * qb + h * qh + rows[:, None] * qs + features[None, :], mask=held[:, None], other=0.0)
    offset = sk - sq
    first, past = 0, sk
    if CAUSAL:
        past = tl.minimum(sk, tile * M + M + offset)
    if WINDOW > 0:
        first = tl.maximum(0, tile * M + offset - WINDOW + 1) // N * N
    # Every query of the tile sees all of these blocks.
    whole_from, whole_to = first, past // N * N
    if CAUSAL:
        whole_to = tl.minimum(whole_to, tl.maximum(tile * M + offset + 1, 0) // N * N)
    if WINDOW > 0:
        whole_from = (tl.maximum(0, tile * M + M + offset - WINDOW) + N - 1) // N * N
    whole_from = tl.minimum(tl.maximum(whole_from, first), tl.cdiv(past, N) * N)
    whole_to = tl.maximum(whole_to, whole_from)
    acc = tl.zeros([M, D], tl.float32)
    m = tl.full([M], float("-inf"), tl.float32)
    l = tl.zeros([M], tl.float32)
    k_at, v_at = k + b * kb + g * kh, v + b * vb + g * vh
    if WINDOW > 0:
        acc, m, l = blocks(acc, m, l, tile_q, k_at, v_at, ks, vs, first, whole_from, rows, offset, sk, scale, cap,
                           N, D, CAUSAL, WINDOW, CAP, True)
    acc, m, l = blocks(acc, m, l, tile_q, k_at, v_at, ks, vs, whole_from, whole_to, rows, offset, sk, scale, cap,
                       N, D, CAUSAL, WINDOW, CAP, False)
    acc, m, l = blocks(acc, m, l, tile_q, k_at, v_at, ks, vs, whole_to, past, rows, offset, sk, scale, cap,
                       N, D, CAUSAL, WINDOW, CAP, True)
    result = acc / tl.where(l == 0, 1.0, l)[:, None]
    at = o + b * ob + h * oh + rows[:, None] * os + features[None, :]
    tl.store(at, result.to(o.dtype.element_ty), mask=held[:, None])


TILES = {64: [(128, 128, 4, 3), (128, 64, 4, 4)], 128: [(128, 64, 8, 3), (128, 128, 8, 2)], 256: [(128, 64, 8, 2), (64, 64, 4, 2)]}
"""Rows, keys, warps, stages: by features. What fits and is fastest is taken, after a try of each."""


def attend(q, k, v, o, tile, causal=False, window=0, cap=0.0):
    """Puts one launch on the current stream."""
    rows, keys, warps, stages = tile
    batch, heads, sq, d = q.shape
    grid = (triton.cdiv(sq, rows), batch * heads)
    strides = [x.stride(n) for x in (q, k, v, o) for n in range(3)]
    forward[grid](
        q, k, v, o, *strides, heads, heads // k.shape[1], sq, k.shape[2], d**-0.5, cap or 1.0,
        M=rows, N=keys, D=d, CAUSAL=causal, WINDOW=window, CAP=cap > 0, num_warps=warps, num_stages=stages,
    )
    return o


def fastest(q, k, v, o, **mask):
    """The tile that takes least time of those that fit. Errors: the last one's, if none does."""
    best, error = None, None
    for tile in TILES[q.shape[-1]]:
        try:
            attend(q, k, v, o, tile, **mask)
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(3):
                attend(q, k, v, o, tile, **mask)
            end.record()
            torch.cuda.synchronize()
            if best is None or start.elapsed_time(end) < best[0]:
                best = (start.elapsed_time(end), tile)
        except Exception as err:  # a tile that needs more than the GPU has
            error = err
    if best is None:
        raise error
    return best[1]
