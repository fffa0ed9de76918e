"""Recurrences: fla's naive linear attention, simple GLA, retention and gated delta rule; transformers' MiniMax and Qwen3-Next.

Goes out: linear_*, token_decay_*, retention_*, lightning_layer_*, gated_delta_*, minimax_layer_*, transnormer_layer_*
goldens, all of class f32_linear. The second oracle is the masked product over all pairs, or the delta rule of the other
package. Each note says by how much a plain step-by-step run in f32 misses the golden, relative to the largest output.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from transformers import MiniMaxConfig
from transformers.models.minimax import modeling_minimax
from transformers.models.qwen3_next import modeling_qwen3_next

from common import WIDE, Fixed, generator, normal, split_heads, widened, write_twice

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fla.ops.gated_delta_rule import naive as delta
    from fla.ops.linear_attn import naive as linear_attn
    from fla.ops.retention import naive as retention_of
    from fla.ops.simple_gla import naive as simple_gla

SPEC = "recurrences.attn"


def swap(x):
    """[B, H, S, ...] to [B, S, H, ...], and back."""
    return x.transpose(1, 2)


def steps(q, k, v, log_decay=None, s0=None, dtype=torch.float64):
    """o and the last state, step by step in `dtype`; log_decay broadcasts to [B, H, S]."""
    q, k, v = (x.to(dtype) for x in (q, k, v))
    state = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=dtype) if s0 is None else s0.to(dtype)
    decay = torch.ones(q.shape[:3], dtype=dtype) if log_decay is None else torch.exp(log_decay.to(dtype)).expand(q.shape[:3])
    rows = []
    for t in range(q.shape[2]):
        state = decay[:, :, t, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(rows, 2), state


def products(q, k, v, log_decay=None, s0=None):
    """The same as a masked product over all pairs, f64: no state is carried."""
    q, k, v = (x.double() for x in (q, k, v))
    n = q.shape[2]
    g = torch.zeros(q.shape[:3], dtype=torch.float64) if log_decay is None else log_decay.double().expand(q.shape[:3])
    total = g.cumsum(-1)
    decay = torch.exp((total[..., :, None] - total[..., None, :]).tril()).tril()
    o = (q @ k.mT * decay) @ v
    rest = torch.exp(total[..., -1:] - total)[..., None]
    state = (k * rest).mT @ v
    if s0 is not None:
        o = o + torch.exp(total)[..., None] * (q @ s0.double())
        state = state + torch.exp(total[..., n - 1])[..., None, None] * s0.double()
    return o, state


def off(name, f32, outputs):
    """By how much f32 results miss, relative to the largest."""
    worst = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(f32, outputs))
    if worst > 8 * 2.0**-23:
        print(f"  {name}: a plain f32 run is off by {worst:.1e} of the largest output; the class allows {8 * 2.0**-23:.1e}")
    return f"a plain f32 run misses by {worst:.1e} of the largest output"


def put(
    name,
    mechanism,
    kernel,
    dims,
    inputs,
    outputs,
    second,
    f32,
    call,
    package,
    by="own f64 product over all pairs",
    params=None,
    note="",
    extra=None,
    limit=1e-9,
):
    """A golden of a recurrence."""
    note = "; ".join(x for x in (note, off(name, f32, list(outputs.values()))) if x)
    write_twice(
        name,
        mechanism,
        SPEC,
        kernel,
        dims,
        inputs,
        outputs,
        second,
        call,
        package,
        by=by,
        limit=limit,
        kind="recurrence",
        tolerance_class="f32_linear",
        params=params,
        note=note,
        extra=extra,
    )


def draw(name, b, h, s, d, dv, state=False):
    """q, k, v and perhaps a first state."""
    gen = generator(name)
    q, k, v = normal(gen, b, h, s, d), normal(gen, b, h, s, d), normal(gen, b, h, s, dv)
    return gen, q, k, v, normal(gen, b, h, d, dv) if state else None


def plain():
    """No decay, with and without a normaliser."""
    for s, started in [(65, False), (17, True)]:
        name, b, h, d, dv = f"linear_{s}" + ("_state" if started else ""), 2, 2, 16, 32 if started else 16
        _, q, k, v, s0 = draw(name, b, h, s, d, dv, started)
        with widened(linear_attn):
            o, state = linear_attn.naive_recurrent_linear_attn(
                swap(q.double()), swap(k.double()), swap(v.double()), scale=1.0, initial_state=s0, output_final_state=True
            )
        second = products(q, k, v, None, s0)
        put(
            name,
            "linear attention",
            "linear",
            dict(B=b, H=h, S=s, D=d, Dv=dv),
            dict(q=q, k=k, v=v) | (dict(s0=s0) if started else {}),
            dict(o=swap(o), s=state),
            dict(o=second[0], s=second[1]),
            steps(q, k, v, None, s0, torch.float32),
            "fla.ops.linear_attn.naive.naive_recurrent_linear_attn(q, k, v, scale=1, normalize=False)",
            "fla-core",
            note=WIDE,
        )
    for s, started in [(65, False), (17, True)]:
        name, b, h, d, dv = f"linear_elu1_{s}" + ("_state" if started else ""), 1, 2, 16, 16
        gen, q, k, v, s0 = draw(name, b, h, s, d, dv, started)
        z0 = normal(gen, b, h, d).abs() if started else None
        map_ = lambda x: F.elu(x) + 1
        with widened(linear_attn):
            first = (s0.double(), z0.double()[:, None]) if started else None
            o, (state, z) = linear_attn.naive_recurrent_linear_attn(
                swap(map_(q.double())), swap(map_(k.double())), swap(v.double()), scale=1.0, initial_state=first, output_final_state=True, normalize=True
            )
        phi = lambda x: torch.where(x > 0, x.double() + 1, torch.exp(x.double()))
        top, last = products(phi(q), phi(k), v, None, s0)
        bottom, z2 = products(phi(q), phi(k), torch.ones(b, h, s, 1), None, z0[..., None] if started else None)
        low = steps(map_(q), map_(k), v, None, s0, torch.float32)
        under = steps(map_(q), map_(k), torch.ones(b, h, s, 1), None, z0[..., None] if started else None, torch.float32)
        put(
            name,
            "linear attention, 1 + elu, normalised",
            "linear_elu1",
            dict(B=b, H=h, S=s, D=d, Dv=dv),
            dict(q=q, k=k, v=v) | (dict(s0=s0, z0=z0) if started else {}),
            dict(o=swap(o), s=state, z=z[:, 0]),
            dict(o=top / (bottom + 1e-10), s=last, z=z2[..., 0]),
            (low[0] / (under[0] + 1e-10), low[1], under[1][..., 0]),
            "fla.ops.linear_attn.naive.naive_recurrent_linear_attn(elu(q) + 1, elu(k) + 1, v, scale=1, normalize=True)",
            "fla-core",
            note=WIDE,
        )


def decays():
    """Decay per token, per head."""
    for s, started in [(65, False), (33, True)]:
        name, b, h, d, dv = f"token_decay_{s}" + ("_state" if started else ""), 1, 3, 16, 16
        gen, q, k, v, s0 = draw(name, b, h, s, d, dv, started)
        g = F.logsigmoid(normal(gen, b, h, s) + 1.5)
        with widened(simple_gla):
            o, state = simple_gla.naive_recurrent_simple_gla(
                swap(q.double()), swap(k.double()), swap(v.double()), swap(g.double()), scale=1.0, initial_state=s0
            )
        second = products(q, k, v, g, s0)
        put(
            name,
            "simple GLA: a decay per token",
            "token_decay",
            dict(B=b, H=h, S=s, D=d, Dv=dv),
            dict(q=q, k=k, v=v, g=g) | (dict(s0=s0) if started else {}),
            dict(o=swap(o), s=state),
            dict(o=second[0], s=second[1]),
            steps(q, k, v, g, s0, torch.float32),
            "fla.ops.simple_gla.naive.naive_recurrent_simple_gla(q, k, v, g, scale=1)",
            "fla-core",
            note=WIDE,
        )

    name, b, h, s, d = "retention_65", 1, 4, 65, 16
    _, q, k, v, _ = draw(name, b, h, s, d, d)
    with widened(retention_of):
        o = retention_of.naive_retention(q.double(), k.double(), v.double())
    g = torch.log1p(-(2.0 ** (-5 - torch.arange(h, dtype=torch.float64))))[None, :, None]
    second, state = steps(q, k, v, g)
    low = steps(q, k, v, g, None, torch.float32)
    put(
        name,
        "retention",
        "retention",
        dict(B=b, H=h, S=s, D=d, Dv=d),
        dict(q=q, k=k, v=v),
        dict(o=o, s=products(q, k, v, g)[1]),
        dict(o=second / math.sqrt(d), s=state),
        (low[0] / math.sqrt(d), low[1]),
        "fla.ops.retention.naive.naive_retention(q, k, v)",
        "fla-core",
        by="own f64 run, step by step",
        note=WIDE + "; the state by an own product",
    )


def minimax_module(h, d, layer, layers, block=16):
    """The module in f64, its slopes f32 as released."""
    config = MiniMaxConfig(
        hidden_size=h * d,
        num_attention_heads=h,
        num_key_value_heads=h,
        head_dim=d,
        num_hidden_layers=layers,
        block_size=block,
        layer_types=["linear_attention"] * layers,
    )
    module = modeling_minimax.MiniMaxLightningAttention(config, layer).double().eval()
    slope = module.get_slope_rate().float()
    module.slope_rate = slope.double()
    module.query_decay, module.key_decay, module.diagonal_decay = module.decay_factors(slope.double())
    return module, slope[:, 0, 0]


def fused(*parts):
    """q, k, v [B, H, S, D] as MiniMax's projection gives them: [B, S, H * 3 D]."""
    x = torch.cat([p.double() for p in parts], -1)
    return swap(x).reshape(x.shape[0], x.shape[2], -1)


def lightning():
    """MiniMax's lightning attention with slopes by formula; its whole layer."""
    name, b, h, s, d, layer, layers = "lightning_layer_65", 1, 4, 65, 16, 2, 8
    _, q, k, v, _ = draw(name, b, h, s, d, d)
    module, _ = minimax_module(h, d, layer, layers)
    module.qkv_proj, module.act_fn, module.norm, module.out_proj = Fixed(fused(q, k, v)), torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()
    module.output_gate = Fixed(torch.full((b, s, h * d), 1e3, dtype=torch.float64))
    o, state = module(torch.zeros(b, s, h * d, dtype=torch.float64), (None, None), None)
    g = -(2.0 ** (-8 * torch.arange(1, h + 1, dtype=torch.float64) / h)) * (1 - layer / (layers - 1 + 1e-5) + 1e-5)
    second = products(q, k, v, g[None, :, None])
    put(
        name,
        "lightning attention, slopes by MiniMax's formula",
        "lightning_layer",
        dict(B=b, H=h, S=s, D=d, Dv=d),
        dict(q=q, k=k, v=v),
        dict(o=split_heads(o, h), s=state),
        dict(o=second[0], s=second[1]),
        steps(q, k, v, g[None, :, None], None, torch.float32),
        f"MiniMaxLightningAttention(layer {layer} of {layers}, block_size=16).double()(x), projections fixed, no norm, gate 1",
        "transformers",
        params=dict(layer=layer, layers=layers),
        limit=3e-7,
        note="the module's slopes are f32",
    )

    name, b, h, s, d = "minimax_layer_41", 1, 3, 41, 16
    gen, q, k, v, _ = draw(name, b, h, s, d, d)
    gate, w = normal(gen, b, h, s, d), 1 + normal(gen, h, d, scale=0.2)
    w_out = normal(gen, h * d, h * d, scale=(h * d) ** -0.5)
    module, slope = minimax_module(h, d, 1, 4)
    module.qkv_proj, module.output_gate = Fixed(fused(q, k, v)), Fixed(swap(gate.double()).reshape(b, s, -1))
    module.norm.weight.copy_(w.flatten().double())
    module.out_proj.weight.copy_(w_out.double())
    with widened(modeling_minimax):
        y, state = module(torch.zeros(b, s, h * d, dtype=torch.float64), (None, None), None)
        module.out_proj = torch.nn.Identity()
        o = split_heads(module(torch.zeros(b, s, h * d, dtype=torch.float64), (None, None), None)[0], h)

    def layer_of(run, dtype):
        silu = lambda x: x.to(dtype) * torch.sigmoid(x.to(dtype))
        o, last = run(silu(q), silu(k), silu(v), -slope[None, :, None])
        o = o * torch.rsqrt((o**2).mean((1, 3), keepdim=True) + 1e-6)
        return o * w.to(dtype)[:, None] * torch.sigmoid(gate.to(dtype)), last

    second = layer_of(products, torch.float64)
    own_y = swap(second[0]).reshape(b, s, -1) @ w_out.double().T
    if (own_y - y).abs().max() > 1e-9:
        raise ValueError("the output projection of the MiniMax layer differs")
    low = layer_of(lambda *x: steps(*x, None, torch.float32), torch.float32)
    put(
        name,
        "MiniMax's linear layer (silu, lightning, norm over heads, gate)",
        "minimax_layer",
        dict(B=b, H=h, S=s, D=d),
        dict(q=q, k=k, v=v, gate=gate, slope=slope, w=w),
        dict(o=o, s=state),
        dict(o=second[0], s=second[1]),
        low,
        "MiniMaxLightningAttention(layer 1 of 4, block_size=16).double()(x), qkv and gate projections fixed; o before the output projection",
        "transformers",
        extra=dict(w_out=w_out, y=y),
        note=WIDE + "; y = o merged over heads @ w_out^T is what the module returns",
    )


def gated_delta():
    """The gated delta rule of two packages."""
    for s, started in [(65, False), (17, True)]:
        name, b, h, d, dv = f"gated_delta_{s}" + ("_state" if started else ""), 1, 2, 16, 16 if not started else 32
        gen, q, k, v, s0 = draw(name, b, h, s, d, dv, started)
        k = F.normalize(k, dim=-1)
        a, beta = F.logsigmoid(normal(gen, b, h, s) + 2), torch.sigmoid(normal(gen, b, h, s))
        args = [swap(x.double()) for x in (q, k, v)]
        with widened(delta, modeling_qwen3_next):
            o, state = delta.naive_recurrent_gated_delta_rule(*args, swap(beta.double()), swap(a.double()), initial_state=s0, output_final_state=True)
            o2, state2 = modeling_qwen3_next.torch_recurrent_gated_delta_rule.__wrapped__(
                *args, swap(a.double()), swap(beta.double()), initial_state=None if s0 is None else s0.double(), output_final_state=True
            )

        def own(dtype):
            q_, k_, v_, a_, b_ = (x.to(dtype) for x in (q, k, v, a, beta))
            last = torch.zeros(b, h, d, dv, dtype=dtype) if s0 is None else s0.to(dtype)
            rows, eye = [], torch.eye(d, dtype=dtype)
            for t in range(s):
                kt, bt = k_[:, :, t], b_[:, :, t, None, None]
                outer = kt[..., :, None] * kt[..., None, :]
                last = torch.exp(a_[:, :, t])[..., None, None] * ((eye - bt * outer) @ last) + bt * kt[..., :, None] * v_[:, :, t, None, :]
                rows.append((q_[:, :, t, None] @ last)[:, :, 0] / math.sqrt(d))
            return torch.stack(rows, 2), last

        exact = own(torch.float64)
        if max((exact[0] - swap(o)).abs().max(), (exact[1] - state).abs().max()) > 1e-10:
            raise ValueError(f"{name}: the formula differs from fla")
        put(
            name,
            "gated delta rule",
            "gated_delta",
            dict(B=b, H=h, S=s, D=d, Dv=dv),
            dict(q=q, k=k, v=v, a=a, beta=beta) | (dict(s0=s0) if started else {}),
            dict(o=swap(o), s=state),
            dict(o=swap(o2), s=state2),
            own(torch.float32),
            "fla.ops.gated_delta_rule.naive.naive_recurrent_gated_delta_rule(q, k, v, beta, g)",
            "fla-core",
            by="transformers qwen3_next torch_recurrent_gated_delta_rule, and an own f64 formula",
            note=WIDE + "; keys have norm 1",
        )


def transnormer():
    """TransNormerLLM's first layer: no package holds it; two formulas."""
    name, b, h, s, d, layers = "transnormer_layer_33", 2, 3, 33, 16, 24
    gen, q, k, v, _ = draw(name, b, h, s, d, d)
    gate = normal(gen, b, h, s, d)
    theta = (10000.0 ** (-2 * torch.arange(h * d, dtype=torch.float64) / (h * d))).float().reshape(h, d)
    slope = (torch.tensor([2.0**-4, 2.0**-8, 2.0**-2], dtype=torch.float64) * (1 - 0 / (layers - 1) + 1e-5)).float()

    def layer_of(run, dtype):
        def rows(x):
            x = x.to(dtype) * torch.sigmoid(x.to(dtype))
            angle = torch.arange(s, dtype=dtype)[:, None] * theta.to(dtype)[:, None]
            return torch.cat([x * angle.cos(), x * angle.sin()], -1)

        o, last = run(rows(q), rows(k), v, -slope[None, :, None])
        return o * torch.rsqrt((o**2).mean((1, 3), keepdim=True) + 1e-6) * gate.to(dtype), last

    o, state = layer_of(products, torch.float64)
    o2, state2 = layer_of(steps, torch.float64)
    silu = lambda x: F.silu(x.double())
    i, j = torch.arange(s)[:, None, None], torch.arange(s)[None, :, None]
    phase = ((i - j) * theta.double()[:, None, None]).cos()
    decay = torch.exp(-slope.double()[:, None, None] * (i - j)[..., 0]).tril()
    third = ((silu(q)[:, :, :, None] * silu(k)[:, :, None] * phase).sum(-1) * decay) @ v.double()
    third = third / torch.sqrt((third**2).mean((1, 3), keepdim=True) + 1e-6) * gate.double()
    if (third - o).abs().max() > 1e-9:
        raise ValueError("LRPE by rows and by differences give two layers")
    put(
        name,
        "TransNormerLLM's layer (silu, LRPE-d, lightning, norm over heads, gate)",
        "transnormer_layer",
        dict(B=b, H=h, S=s, D=d),
        dict(q=q, k=k, v=v, gate=gate, slope=slope, theta=theta),
        dict(o=o, s=state),
        dict(o=o2, s=state2),
        layer_of(lambda *x: steps(*x, None, torch.float32), torch.float32),
        "own f64: silu, rows [x cos, x sin], masked product over all pairs, SRMSNorm over H and D, gate",
        "torch",
        by="own f64 runs: step by step; by cos((i - j) theta)",
        note="slopes of 3 heads in layer 0 of 24, theta as released",
    )

    # the last rows again, as a decode that starts from the state of the first 20
    at = 20
    first = [x[:, :, :at] for x in (q, k, v)]
    angle = torch.arange(s, dtype=torch.float64)[:, None] * theta.double()[:, None]
    rows = lambda x: torch.cat([silu(x) * angle.cos(), silu(x) * angle.sin()], -1)
    s0 = steps(rows(q)[:, :, :at], rows(k)[:, :, :at], first[2], -slope[None, :, None])[1].float()

    def rest(dtype):
        last, end = steps(rows(q)[:, :, at:], rows(k)[:, :, at:], v[:, :, at:], -slope[None, :, None], s0, dtype)
        return last * torch.rsqrt((last**2).mean((1, 3), keepdim=True) + 1e-6) * gate[:, :, at:].to(dtype), end

    last, end = rest(torch.float64)
    put(
        "transnormer_layer_13_start20",
        "TransNormerLLM's layer, decode from a state",
        "transnormer_layer",
        dict(B=b, H=h, S=s - at, D=d),
        dict(q=q[:, :, at:], k=k[:, :, at:], v=v[:, :, at:], gate=gate[:, :, at:], slope=slope, theta=theta, s0=s0),
        dict(o=last, s=end),
        dict(o=o[:, :, at:], s=state),
        rest(torch.float32),
        "own f64, step by step from s0",
        "torch",
        by="the last rows of the whole sequence (transnormer_layer_33)",
        params=dict(start=at),
        note="`start` is the run-time start of the recurrence, not a declared parameter; s0 is rounded to f32",
        limit=1e-6,
    )


def main():
    """Writes the whole family."""
    plain()
    decays()
    lightning()
    gated_delta()
    transnormer()


if __name__ == "__main__":
    main()
