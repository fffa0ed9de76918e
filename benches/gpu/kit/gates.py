"""When a result is right: `compiler/src/tolerance.rs` again, on torch tensors.

Comes in: what was written, the reference, the gate. Goes out: errors and a verdict. What holds: NaN and infinities must stand in the same
places. The norm is that of the whole tensor.
"""

import torch

BF16 = dict(atol=1.5e-2, rtol=1.6e-2, rel_l2=6e-3)
"""For averages of rows in bf16."""


def compare(found, wanted, gate):
    """dict(ok, max_abs, rel_l2, nonfinite)"""
    found, wanted = found.double().flatten(), wanted.double().flatten()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    finite = found.isfinite() & wanted.isfinite()
    nonfinite = int((~finite & ~same).sum())
    error = torch.where(finite, (found - wanted).abs(), torch.zeros_like(found))
    size = torch.where(finite, wanted, torch.zeros_like(wanted))
    within = bool((error <= gate["atol"] + gate["rtol"] * size.abs()).all())
    norm, total = float(size.norm()), float(error.norm())
    rel_l2 = total / norm if norm > 0 else total
    ok = within and nonfinite == 0 and (gate["rel_l2"] is None or rel_l2 <= gate["rel_l2"])
    return dict(ok=ok, max_abs=float(error.max()) if len(error) else 0.0, rel_l2=rel_l2, nonfinite=nonfinite)
