"""Masks and biases of N x N elements, for implementations that take nothing else. numpy only."""

import numpy as np

import tensors as made


def added(case, t, lowest=np.finfo(np.float32).min):
    """f32 [1, H or 1, Sq, Sk]: bias, and `lowest` where a query does not see a key."""
    rows = range(case.sq)
    seen = made.visible(case, t, rows)
    if case.kind not in ("alibi", "t5"):
        return np.where(seen, np.float32(0), np.float32(lowest)).astype(np.float32)[None, None]
    heads = [np.where(seen, made.bias(case, t, h, rows), lowest).astype(np.float32) for h in range(case.hq)]
    return np.stack(heads)[None]
