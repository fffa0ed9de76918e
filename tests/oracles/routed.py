"""Conditional attention: colt5-attention's ConditionalRoutedAttention and router; SDPA on gathered rows.

Goes out: colt5_*, routed_* goldens. The routers' scores are inputs of the kernels: what coordinate descent made of
them stands in the file. No rank hangs on rounding.
"""

import math

import torch
import torch.nn.functional as F
from colt5_attention import ConditionalRoutedAttention
from colt5_attention.coor_descent import coor_descent

from common import Fixed, dense, dots, generator, merge_heads, normal, qkv, split_heads, spread, write_twice
from relative import distances


def apart(score, n):
    """An error if the n-th and the next score are close."""
    top = score.double().sort(-1, descending=True).values
    if (top[:, n - 1] - top[:, n]).min() < 1e-5:
        raise ValueError("a selection hangs on rounding: draw other inputs")


def descent(s, k, n_iters, eps, eps_init, decay):
    """The router's formula a second time: dual ascent with falling temperature."""
    a, b, e = 0.0, -s, max(eps_init, eps)
    for _ in range(n_iters):
        a = e * (math.log(k) - torch.logsumexp((s + b) / e, -1, keepdim=True))
        b = -torch.clamp(s + a, min=0.0)
        e = max(e * decay, eps)
    return torch.exp((s + a + b) / e)


def chosen(score, n):
    """True at the n largest."""
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, score.topk(n, -1).indices, True)


def heavy(q, k, v, rq, rkv, nq, nkv, gq, gkv, scale, sink):
    """The heavy branch by masks over all pairs: f64."""
    keys = chosen(rkv, nkv)[:, None, None, :].expand(-1, q.shape[1], q.shape[2], -1)
    o = dense(dots(q, k) * scale, v.double() * gkv.double()[:, None, :, None], keys, sink)[0]
    return o * (gq.double() * chosen(rq, nq))[:, None, :, None]


def released():
    """The module: light and heavy branch, scores by coordinate descent."""
    b, s, h, d, w, nq, nkv = 2, 48, 2, 16, 16, 9, 14
    gen, dim = generator("colt5_released"), h * d
    router = dict(n_iters=50, eps=1.0, eps_init=4.0, eps_decay=0.7)
    module = (
        ConditionalRoutedAttention(
            dim,
            num_heavy_tokens_q=nq,
            num_heavy_tokens_kv=nkv,
            light_dim_head=d,
            light_heads=h,
            light_window_size=2 * w,
            heavy_dim_head=d,
            heavy_heads=h,
            router_straight_through=False,
            router_kwargs=router,
        )
        .double()
        .eval()
    )
    for parameter in module.parameters():
        parameter.copy_(normal(gen, *parameter.shape, scale=parameter.shape[-1] ** -0.5))
    for parameter in (module.null_q_token, module.heavy_attn.null_kv):
        parameter.zero_()
    module.heavy_attn.norm.gamma.fill_(1.0)
    x = normal(gen, b, s, dim).double()
    light = qkv(gen, b, h, s, d)
    module.light_attn.norm, module.light_attn.to_out, module.heavy_attn.to_out = None, torch.nn.Identity(), torch.nn.Identity()
    module.light_attn.to_qkv = Fixed(torch.cat([merge_heads(t).double() for t in light], -1))
    o = split_heads(module(x), h)
    near = split_heads(module.light_attn(x), h)

    normed = module.heavy_attn.norm(x)
    q = split_heads(module.heavy_attn.to_q(normed), h)
    weight = module.heavy_attn.to_kv.weight.unflatten(0, (h, 2, d))
    k, v = (torch.einsum("hdi,bni->bhnd", weight[:, part], normed) for part in (0, 1))
    scores = []
    for r, n in ((module.q_router, nq), (module.kv_router, nkv)):
        raw = x @ r.routing_token[0]
        score = coor_descent(raw, k=n * 9 / 8, **router)
        own = descent(raw, n * 9 / 8, 50, 1.0, 4.0, 0.7)
        if (score - own).abs().max() > 1e-12:
            raise ValueError("coordinate descent: the formula gives something else than the package")
        apart(score, n)
        scores.append(score.float())
    rq, rkv = scores
    q, k, v = (t.float() for t in (q, k, v))
    second = dense(dots(*light[:2]) / math.sqrt(d), light[2], distances(s).abs() <= w)[0]
    far = heavy(q, k, v, rq, rkv, nq, nkv, rq, rkv, d**-0.5, torch.zeros(()))
    inputs = {f"light.{n}": t for n, t in zip("qkv", light)} | {"heavy.q": q, "heavy.k": k, "heavy.v": v, "rq": rq, "rkv": rkv}
    write_twice(
        f"colt5_released_{s}",
        "CoLT5, light and heavy branch (colt5-attention)",
        "routed.attn",
        "colt5_released",
        dict(B=b, S=s, Hl=h, Hh=h, D=d),
        inputs,
        dict(light=near, o=o),
        dict(light=second, o=second + far),
        f"ConditionalRoutedAttention(num_heavy_tokens_q={nq}, num_heavy_tokens_kv={nkv}, light_window_size={2 * w}, router_straight_through=False, router eps 1, 50 iterations).double()(x); null rows 0, no output projections",
        "CoLT5-attention",
        params=dict(w=w, n_q=nq, n_kv=nkv),
        note="the scores are coor_descent(x @ routing_token), which a formula reproduces to 1e-12",
    )


def paper():
    """CoLT5 as in the paper: gathered rows through SDPA."""
    b, s, d, radius = 1, 65, 16, 20
    gen = generator("colt5_paper")
    nq, nkv = s // 16, s // 8
    rq, rkv = normal(gen, b, s), normal(gen, b, s)
    light = [t * 0.5 for t in qkv(gen, b, 1, s, d)]
    q, k, v = (t * 0.5 for t in qkv(gen, b, 3, s, d))
    apart(rq, nq), apart(rkv, nkv)
    near = F.scaled_dot_product_attention(*(t.double() for t in light), attn_mask=distances(s).abs() <= radius, scale=1.0)
    at_q, at_k = rq.topk(nq, -1), rkv.topk(nkv, -1)
    take = lambda t, at: torch.gather(t.double(), 2, at.indices[:, None, :, None].expand(-1, t.shape[1], -1, d))
    some = F.scaled_dot_product_attention(take(q, at_q), take(k, at_k), take(v, at_k) * torch.sigmoid(at_k.values.double())[:, None, :, None], scale=1.0)
    some = some * torch.sigmoid(at_q.values.double())[:, None, :, None]
    far = torch.zeros(b, 3, s, d, dtype=torch.float64).scatter_(2, at_q.indices[:, None, :, None].expand(-1, 3, -1, d), some)
    second = dict(
        light=dense(dots(*light[:2]), light[2], distances(s).abs() <= radius)[0],
        o=heavy(q, k, v, rq, rkv, nq, nkv, torch.sigmoid(rq.double()), torch.sigmoid(rkv.double()), 1.0, None),
    )
    inputs = {f"light.{n}": t for n, t in zip("qkv", light)} | {"heavy.q": q, "heavy.k": k, "heavy.v": v, "rq": rq, "rkv": rkv}
    write_twice(
        f"colt5_paper_{s}",
        "CoLT5 as in the paper",
        "routed.attn",
        "colt5_paper",
        dict(B=b, S=s, Hl=1, Hh=3, D=d),
        inputs,
        dict(light=near, o=far),
        second,
        "SDPA(scale=1) in f64: a window, and rows gathered by torch.topk, gated, scattered",
        "torch",
        by="own f64 formula with masks over all pairs",
        params=dict(radius=radius),
    )


def parts():
    """Routed keys, routed queries."""
    b, s, hq, hkv, d, n = 2, 33, 4, 2, 16, 7
    gen = generator("routed_keys")
    q, k, v, r = normal(gen, b, hq, s, d), normal(gen, b, hkv, s, d), normal(gen, b, hkv, s, d), normal(gen, b, s)
    apart(r, n)
    mask = chosen(r, n)[:, None, None, :] & (distances(s) <= 0)
    at = r.topk(n, -1).indices
    take = lambda t: spread(torch.gather(t, 2, at[:, None, :, None].expand(-1, hkv, -1, d)), hq).double()
    late = (at[:, None, :] <= torch.arange(s)[:, None])[:, None]
    score = (q.double() @ take(k).transpose(-1, -2) / math.sqrt(d)).masked_fill(~late, -math.inf)
    o = torch.softmax(score, -1).nan_to_num(0.0) @ take(v)
    o2, lse2 = dense(dots(q, k) / math.sqrt(d), spread(v, hq), mask)
    write_twice(
        f"routed_keys_{s}",
        "keys selected by top-k",
        "routed.attn",
        "routed_keys",
        dict(B=b, Hq=hq, Hkv=hkv, S=s, D=d),
        dict(q=q, k=k, v=v, r=r),
        dict(o=o, lse=torch.logsumexp(score, -1)),
        dict(o=o2, lse=lse2),
        "torch softmax in f64 over rows gathered by torch.topk",
        "torch",
        by="own f64 formula with a mask",
        params=dict(n=n),
        note="early rows see no selected key: 0 and -inf",
    )

    gen, h = generator("routed_queries"), 2
    q, k, v, r = *qkv(gen, b, h, s, d), normal(gen, b, s)
    apart(r, n)
    at = r.topk(n, -1).indices
    some = torch.gather(q, 2, at[:, None, :, None].expand(-1, h, -1, d)).double()
    mask = (torch.arange(s) <= at[..., None])[:, None]
    some = F.scaled_dot_product_attention(some, k.double(), v.double(), attn_mask=mask)
    o = torch.zeros(b, h, s, d, dtype=torch.float64).scatter_(2, at[:, None, :, None].expand(-1, h, -1, d), some)
    o2 = dense(dots(q, k) / math.sqrt(d), v, distances(s) <= 0)[0] * chosen(r, n)[:, None, :, None]
    write_twice(
        f"routed_queries_{s}",
        "queries selected by top-k, scattered",
        "routed.attn",
        "routed_queries",
        dict(B=b, H=h, S=s, D=d),
        {"some.q": q, "some.k": k, "some.v": v, "r": r},
        dict(o=o),
        dict(o=o2),
        "SDPA in f64 on rows gathered by torch.topk, scattered back",
        "torch",
        by="own f64 formula, all rows, the others set to 0",
        params=dict(n=n),
    )


def main():
    """Writes the whole family."""
    released()
    paper()
    parts()


if __name__ == "__main__":
    main()
