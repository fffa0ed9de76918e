"""Lightning attention with each of the published decay formulas: fla's chunk_lightning_attn over its naive kernel, the torch
reference of lightning-attn, the paper's formula through fla's naive kernel, MiniMax's decode step.

Goes out: lightning_fla_*, lightning_tnl_*, lightning_paper_*, lightning_minimax_* goldens, of class f32_linear: a sequence, and
one token from a state. The kernels form the decay by formula from the number of the layer. The second oracle is the masked
product over all pairs with slopes formed anew.
"""

import math
import warnings

import torch
from transformers.models.minimax import modeling_minimax

from common import WIDE, widened
from lightning import LAYER, LAYERS, minimax
from recurrences import draw, products, put, steps, swap

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fla.ops.lightning_attn import chunk as fla_lightning
    from fla.ops.simple_gla import naive as simple_gla
    from lightning_attn.ops.torch import linear_attention as released
    from lightning_attn.utils import _build_slope_tensor

HEADS, D = 6, 16


def by_fla(q, k, v, slope, s0):
    """fla's naive recurrence with a decay of exp(-slope) per head; layouts of the caller."""
    g = -slope.double()[None, None].expand(q.shape[0], q.shape[2], -1)
    with widened(simple_gla):
        o, state = simple_gla.naive_recurrent_simple_gla(
            *(swap(x).double() for x in (q, k, v)), g, scale=1.0, initial_state=None if s0 is None else s0.double(), output_final_state=True
        )
    return swap(o), state


def fla(q, k, v, s0):
    """chunk_lightning_attn, its GPU kernel replaced by the naive one."""
    seen = []

    def naive(q, k, v, scale, g_gamma, initial_state, **_):
        seen.append(-g_gamma)
        return by_fla(*(swap(x) for x in (q, k, v)), -g_gamma, initial_state)

    kernel, fla_lightning.chunk_simple_gla = fla_lightning.chunk_simple_gla, naive
    try:
        o, state = fla_lightning.chunk_lightning_attn(*(swap(x) for x in (q, k, v)), LAYER, LAYERS, scale=1.0, initial_state=s0)
    finally:
        fla_lightning.chunk_simple_gla = kernel
    return o, state, seen[0]


def transnormer(q, k, v, s0):
    """lightning-attn's torch reference with the slopes of TransNormerLLM; from a state by fla's naive kernel."""
    slope = (_build_slope_tensor(q.shape[1]) * (1 - LAYER / (LAYERS - 1) + 1e-5)).flatten()
    o, state = by_fla(q, k, v, slope, s0)
    if s0 is None:
        with widened(released):
            o = released.linear_attn(*(x.double() for x in (q, k, v)), slope.double()[:, None, None])
    return o, state, slope


def paper(q, k, v, s0):
    """The formula of the Lightning Attention 2 paper, which no released code uses."""
    slope = torch.arange(1, q.shape[1] + 1) * 8 / q.shape[1] * (1 - LAYER / LAYERS)
    return *by_fla(q, k, v, slope, s0), slope


def step(q, k, v, s0):
    """MiniMax's module at decode."""
    with widened(modeling_minimax):
        return minimax(q, k, v, s0)


def second_slopes(kind, h):
    """The slopes by formula, f64."""
    n = torch.arange(h, dtype=torch.float64)
    if kind == "minimax":
        return 2 ** (-8 * (n + 1) / h) * (1 - LAYER / (LAYERS - 1 + 1e-5) + 1e-5)
    if kind == "tnl":
        p = 2 ** math.floor(math.log2(h))
        return torch.where(n < p, 2 ** (-8 * (n + 1) / p), 2 ** (-4 * (2 * (n - p) + 1) / p)) * (1 - LAYER / (LAYERS - 1) + 1e-5)
    return 8 / h * (1 - LAYER / LAYERS) * (n if kind == "fla" else n + 1)


CASES = {
    "fla": (fla, "fla-core", "fla.ops.lightning_attn.chunk_lightning_attn(layer 1 of 4), its chunk_simple_gla replaced by naive_recurrent_simple_gla"),
    "tnl": (transnormer, "lightning-attn", "lightning_attn.ops.torch linear_attn(q, k, v, _build_slope_tensor(6) (1 - l / (L - 1) + 1e-5))"),
    "paper": (paper, "fla-core", "fla naive_recurrent_simple_gla with slopes 8 h / H (1 - l / L), h from 1, formed in torch"),
    "minimax": (step, "transformers", "MiniMaxLightningAttention(layer 1 of 4).double()(x, past_key_values=state), projections fixed, no norm, gate 1"),
}


def main():
    """Writes the whole family."""
    for kind, (run, package, call) in CASES.items():
        for s in (33, 1):
            if kind == "minimax" and s > 1:
                continue  # lightning_layer_65
            name = f"lightning_{kind}_{s}" + ("_state" if s == 1 else "")
            h = 4 if kind == "minimax" else HEADS
            _, q, k, v, s0 = draw(name, 1, h, s, D, D, s == 1)
            o, state, slope = run(q, k, v, s0)
            own = second_slopes(kind, h)
            worst = (slope.double() - own).abs().max().item()
            if worst > 1e-6:
                raise ValueError(f"{name}: slopes differ by {worst:.1e}")
            second = products(q, k, v, -own[None, :, None], s0)
            put(
                name,
                f"lightning attention, slopes of {dict(fla='fla', tnl='TransNormerLLM', paper='the paper', minimax='MiniMax')[kind]}" + (", decode" if s == 1 else ""),
                "lightning_layer" if kind == "minimax" else f"lightning_{kind}",
                dict(B=1, H=h, S=s, D=D, Dv=D),
                dict(q=q, k=k, v=v) | ({} if s0 is None else dict(s0=s0)),
                dict(o=o, s=state),
                dict(o=second[0], s=second[1]),
                steps(q, k, v, -own[None, :, None], s0, torch.float32),
                "fla naive_recurrent_simple_gla with slopes _build_slope_tensor(6) (1 - l / (L - 1) + 1e-5) of lightning-attn" if kind == "tnl" and s == 1 else call,
                package,
                params=dict(layer=LAYER, layers=LAYERS),
                note=WIDE,
                limit=1e-6,
            )


if __name__ == "__main__":
    main()
