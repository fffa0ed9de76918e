"""The truth at sampled rows: dense attention in f64 with torch, independent of attnc.

Comes in: a shape, tensors. Goes out: for two heads of two sequences some rows of o. What holds: the first and last rows are among them.
"""

import torch

ROWS = 48


def samples(shape, device):
    """(batch, head) pairs and rows."""
    pairs = sorted({(0, 0), (shape["b"] - 1, shape["hq"] - 1)})
    g = torch.Generator().manual_seed(7)
    rows = torch.randint(0, shape["sq"], (min(ROWS, shape["sq"]),), generator=g)
    rows[0], rows[-1] = 0, shape["sq"] - 1
    return pairs, rows.to(device)


def dense(shape, q, k, v, x):
    """Rows of o for each pair, stacked, in f64."""
    pairs, rows = samples(shape, q.device)
    return torch.stack([attended(shape, q, k, v, x, b, h, rows) for b, h in pairs])


def attended(shape, q, k, v, x, b, h, rows):
    """Some rows of one head."""
    g = h // (shape["hq"] // shape["hkv"])
    s = q[b, h, rows].double() @ k[b, g].double().T * shape["d"] ** -0.5
    i, j = rows[:, None] + shape["sk"] - shape["sq"], torch.arange(shape["sk"], device=q.device)[None, :]
    if shape["cap"]:
        s = shape["cap"] * torch.tanh(s / shape["cap"])
    if shape["kind"] == "alibi":
        s = s - x["slopes"][h].double() * (i - j)
    seen = j <= i if shape["causal"] else torch.ones_like(s, dtype=torch.bool)
    if shape["window"]:
        seen = seen & (j > i - shape["window"])
    if shape["documents"]:
        seen = seen & (x["doc"][b, rows][:, None] == x["doc"][b][None, :])
    return s.masked_fill(~seen, float("-inf")).softmax(-1) @ v[b, g].double()


def picked(shape, o):
    """The same rows of a whole result."""
    pairs, rows = samples(shape, o.device)
    return torch.stack([o[b, h, rows] for b, h in pairs])
