"""Serving: caches, pages, int8 rows, latent attention (transformers' DeepSeek-V3), trees of drafts, merged partials.

Goes out: decode_*, read_int8_*, mla_absorbed_*, tree_verify_*, merge_* goldens. Caches are stored as they are before the
run, and as `<name>.after` where rows are appended. Slots that hold no key are filled with large numbers. int8 cases are
drawn so that no rounding is near its border: rows formed in f32 or f64 give the same bytes.
"""

import math

import torch
import torch.nn.functional as F
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3 import modeling_deepseek_v3

from common import WIDE, dense, dots, generator, normal, spread, widened, write_twice
from rope_scaling import powers, turn

SPEC, PAGE = "serving.attn", 16


def paged(gen, rows, lengths, free=2):
    """Pools of pages of rows [B, S, ...] with garbage elsewhere, and the table [B, max_pages]; pages lie in random order."""
    need = [-(-n // PAGE) for n in lengths]
    order = gen.permutation(sum(need) + free).tolist()
    table = torch.zeros(len(lengths), max(need), dtype=torch.int64)
    for b, n in enumerate(need):
        table[b, :n] = torch.tensor([order.pop() for _ in range(n)])
    pools = []
    for x in rows:
        shape = (sum(need) + free, PAGE, *x.shape[2:])
        pool = torch.full(shape, 77, dtype=torch.int8) if x.dtype == torch.int8 else (normal(gen, *shape) * 1e3).to(x.dtype)
        put(pool, table, x, lengths, 0)
        pools.append(pool)
    return pools, table


def put(pool, table, rows, lengths, first):
    """Writes rows [B, n, ...] at positions first.. (or the last n of each sequence, where `first` is None)."""
    for b, length in enumerate(lengths):
        n = rows.shape[1]
        start = length - n if first is None else first
        for t in range(min(n, length - start)):
            pool[table[b, (start + t) // PAGE], (start + t) % PAGE] = rows[b, t]


def gather(pool, table, b, length):
    """Rows [length, ...] of one sequence."""
    return pool[table[b]].flatten(0, 1)[:length]


def quantise(x, strict=False):
    """int8 rows and f16 scales over the last dim; where `strict`, an error if a rounding hangs on the last bits of x."""
    x = x.double()
    top = x.abs().amax(-1) / 127
    scale = top.half()
    for nudge in (1 - 1e-6, 1 + 1e-6) if strict else ():
        if not torch.equal((top * nudge).half(), scale):
            raise ValueError("an f16 scale hangs on rounding")
    y = x / scale.double()[..., None]
    if strict and ((y - y.floor() - 0.5).abs() < 1e-4).any():
        raise ValueError("an int8 value hangs on rounding")
    return torch.round(y).clamp(-128, 127).to(torch.int8), scale


def by_torch(x, scale):
    """torch's own quantisation of the rows x with the scales given."""
    flat, each = x.float().flatten(0, -2), scale.float().flatten()
    done = torch.quantize_per_channel(flat, each.double(), torch.zeros(len(each), dtype=torch.int64), 0, torch.qint8)
    return done.int_repr().reshape(x.shape)


def one(q, k, v, mask):
    """SDPA in f64 of one sequence: q [Hq, Sq, D], k and v [Hkv, S, D]."""
    return F.scaled_dot_product_attention(q[None].double(), k[None].double(), v[None].double(), attn_mask=mask, enable_gqa=q.shape[0] != k.shape[0])[0]


def decode(q, keys, values, masks):
    """o and lse by SDPA and logsumexp, and by the formula; lists over sequences."""
    o, lse, o2, lse2 = [], [], [], []
    for b, (k, v, m) in enumerate(zip(keys, values, masks)):
        k, v = k.double().transpose(0, 1), v.double().transpose(0, 1)
        o.append(one(q[b], k, v, m))
        s = (torch.einsum("hid,hjd->hij", q[b].double(), k.repeat_interleave(q.shape[1] // k.shape[0], 0)) / math.sqrt(q.shape[-1])).masked_fill(~m, -math.inf)
        lse.append(torch.logsumexp(s, -1))
        a, c = dense(dots(q[b : b + 1], k[None]) / math.sqrt(q.shape[-1]), spread(v[None], q.shape[1]), m)
        o2.append(a[0]), lse2.append(c[0])
    return [torch.stack(x) for x in (o, lse, o2, lse2)]


def at_end(sq, length):
    """j <= i with the last query on the last key."""
    return torch.arange(length)[None] <= torch.arange(sq)[:, None] + length - sq


def int8():
    """Paged int8 caches: read only, and with rope and append."""
    b, hq, hkv, d, lengths = 2, 4, 2, 32, [37, 20]
    names = lambda pools: dict(zip(("k", "k_scale", "v", "v_scale"), pools))
    name, sq = "read_int8_3x37", 3
    gen = generator(name)
    q, (ki, ks), (vi, vs) = normal(gen, b, hq, sq, d), quantise(normal(gen, b, 37, hkv, d)), quantise(normal(gen, b, 37, hkv, d))
    pools, table = paged(gen, (ki, ks, vi, vs), lengths)
    wide = lambda i, s: [gather(i, table, n, x).double() * gather(s, table, n, x).double()[..., None] for n, x in enumerate(lengths)]
    o, lse, o2, lse2 = decode(q, wide(*pools[:2]), wide(*pools[2:]), [at_end(sq, n) for n in lengths])
    dims = dict(B=b, Hq=hq, Hkv=hkv, Sq=sq, Sk=table.shape[1] * PAGE, D=d)
    write_twice(
        name,
        "paged int8 cache, read",
        SPEC,
        "read_int8",
        dims,
        dict(q=q) | names(pools) | dict(pages=table, kv_len=torch.tensor(lengths)),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        "SDPA(enable_gqa=True) in f64 on k * k_scale, v * v_scale gathered from the pages",
        "torch",
    )

    name = "decode_int8_3x37"
    gen = generator(name)
    q, k, v = normal(gen, b, hq, sq, d), normal(gen, b, hkv, sq, d), normal(gen, b, hkv, sq, d)
    (ki, ks), (vi, vs) = quantise(normal(gen, b, 37, hkv, d)), quantise(normal(gen, b, 37, hkv, d))
    old = [n - sq for n in lengths]
    pools, table = paged(gen, (ki, ks, vi, vs), lengths)
    for n, length in enumerate(old):  # the rows to come hold garbage
        for t in range(length, lengths[n]):
            for pool in pools:
                pool[table[n, t // PAGE], t % PAGE] = 99
    before = [pool.clone() for pool in pools]
    pos = torch.stack([torch.arange(n - sq, n) for n in lengths])
    inv = powers(d, 1e4)
    qr, kr = turn(q, inv, pos), turn(k, inv, pos)
    rows = [x.transpose(1, 2) for x in (kr, v.double())]
    new = [part for x in rows for part in quantise(x, strict=True)]
    for pool, x in zip(pools, new):
        put(pool, table, x, lengths, None)
    again = [pool.clone() for pool in before]
    for n in range(b):
        for t in range(sq):
            at = table[n, (old[n] + t) // PAGE], (old[n] + t) % PAGE
            for which, x in ((0, rows[0]), (2, rows[1])):
                scale = (x[n, t].abs().max(-1).values.float() / 127).half()
                again[which + 1][at] = scale
                again[which][at] = by_torch(x[n, t], scale)
    o, lse, o2, lse2 = decode(qr, wide_of(pools[:2], table, lengths), wide_of(pools[2:], table, lengths), [at_end(sq, n) for n in lengths])
    inputs = dict(q=q, k_new=k, v_new=v) | names(before) | dict(pages=table, kv_len=torch.tensor(lengths))
    write_twice(
        name,
        "paged int8 cache: rope, quantise, append, attend",
        SPEC,
        "decode_int8",
        dims,
        inputs,
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        "own: scale = f16(max|x| / 127), torch.round (half to even); SDPA(enable_gqa=True) in f64 on the stored values",
        "torch",
        by="own f64 formula; bytes equal to torch.quantize_per_channel",
        updated=names(pools),
        second_updated=names(again),
        limit=4e-6,
        note="rope angles f32; no rounding of a stored row is within 1e-4 of its border",
    )


def wide_of(pools, table, lengths):
    """Rows of an int8 pool and its scales, widened, a list over sequences."""
    return [gather(pools[0], table, n, x).double() * gather(pools[1], table, n, x).double()[..., None] for n, x in enumerate(lengths)]


def floats():
    """Caches in the type of the queries: paged with a window, contiguous."""
    b, hq, hkv, d, lengths, sq, window = 2, 4, 2, 16, [50, 19], 4, 24
    name = "decode_paged_4x50"
    gen = generator(name)
    q, k, v = normal(gen, b, hq, sq, d), normal(gen, b, hkv, sq, d), normal(gen, b, hkv, sq, d)
    old = [n - sq for n in lengths]
    before, table = paged(gen, (normal(gen, b, old[0], hkv, d), normal(gen, b, old[0], hkv, d)), lengths)
    for pool in before:  # `paged` filled up to the old length of the longest; what comes after each old length is garbage
        for n in range(b):
            for t in range(old[n], lengths[n]):
                pool[table[n, t // PAGE], t % PAGE] = 1e3
    pools, again = [x.clone() for x in before], [x.clone() for x in before]
    for pool, x in zip(pools, (k, v)):
        put(pool, table, x.transpose(1, 2), lengths, None)
    for pool, x in zip(again, (k, v)):
        for n in range(b):
            at = torch.arange(old[n], lengths[n])
            pool[table[n][at // PAGE], at % PAGE] = x[n].transpose(0, 1)
    masks = [at_end(sq, n) & (torch.arange(n)[None] > torch.arange(sq)[:, None] + n - sq - window) for n in lengths]
    o, lse, o2, lse2 = decode(q, *([gather(p, table, n, x) for n, x in enumerate(lengths)] for p in pools), masks)
    dims = dict(B=b, Hq=hq, Hkv=hkv, Sq=sq, Sk=table.shape[1] * PAGE, D=d)
    write_twice(
        name,
        "paged cache: append, window",
        SPEC,
        "decode_paged",
        dims,
        dict(q=q, k_new=k, v_new=v, k=before[0], v=before[1], pages=table, kv_len=torch.tensor(lengths)),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        "SDPA(enable_gqa=True) in f64 on rows gathered from the pages after the append",
        "torch",
        params=dict(window=window),
        updated=dict(k=pools[0], v=pools[1]),
        second_updated=dict(k=again[0], v=again[1]),
    )

    name, sk, sq, lengths = "decode_contiguous_1x40", 40, 1, [33, 40]
    gen = generator(name)
    q, k, v, kc, vc = normal(gen, b, hq, sq, d), normal(gen, b, hkv, sq, d), normal(gen, b, hkv, sq, d), normal(gen, b, hkv, sk, d), normal(gen, b, hkv, sk, d)
    for x in (kc, vc):
        for n, length in enumerate(lengths):
            x[n, :, length - 1 :] = 1e3
    after = [torch.stack([torch.cat([x[n, :, : m - 1], y[n], x[n, :, m:]], 1) for n, m in enumerate(lengths)]) for x, y in ((kc, k), (vc, v))]
    at = torch.tensor(lengths)[:, None, None, None].expand(b, hkv, 1, d) - 1
    again = [x.scatter(2, at, y) for x, y in ((kc, k), (vc, v))]
    rows = [[x[n, :, :m].transpose(0, 1) for n, m in enumerate(lengths)] for x in after]
    o, lse, o2, lse2 = decode(q, *rows, [at_end(sq, n) for n in lengths])
    write_twice(
        name,
        "contiguous cache: append",
        SPEC,
        "decode_contiguous",
        dict(B=b, Hq=hq, Hkv=hkv, Sq=sq, Sk=sk, D=d),
        dict(q=q, k_new=k, v_new=v, k=kc, v=vc, kv_len=torch.tensor(lengths)),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        "SDPA(enable_gqa=True) in f64 on the first kv_len keys after the append",
        "torch",
        updated=dict(k=after[0], v=after[1]),
        second_updated=dict(k=again[0], v=again[1]),
    )


def latent():
    """DeepSeek-V3: the released attention expands the latent rows, the kernel does not."""
    name, h, r, dr, nope, dv, sq, lengths, width = "mla_absorbed_2x37", 4, 32, 16, 16, 16, 2, [37, 20], 48
    gen = generator(name)
    config = DeepseekV3Config(
        hidden_size=width,
        num_attention_heads=h,
        num_key_value_heads=h,
        q_lora_rank=None,
        kv_lora_rank=r,
        qk_rope_head_dim=dr,
        qk_nope_head_dim=nope,
        v_head_dim=dv,
        rope_parameters=dict(rope_type="default", rope_theta=1e4),
        attn_implementation="eager",
    )
    module = modeling_deepseek_v3.DeepseekV3Attention(config, 0).double().eval()
    for parameter in module.parameters():
        parameter.copy_(normal(gen, *parameter.shape, scale=1.5 * parameter.shape[-1] ** -0.5))
    module.kv_a_layernorm.weight.fill_(1.0)
    module.o_proj = torch.nn.Identity()
    w = module.kv_b_proj.weight.unflatten(0, (h, nope + dv))
    w_uk, w_uv = w[:, :nope].float(), w[:, nope:].float()
    qc, qr, c, kr, y = [], [], [], [], []
    for length in lengths:
        x = normal(gen, 1, length, width).double()
        angle = (torch.arange(length)[:, None].float() * powers(dr, 1e4).float()).repeat(1, 2)[None]
        cos, sin = angle.cos().double(), angle.sin().double()
        mask = torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~at_end(length, length), -math.inf)
        with widened(modeling_deepseek_v3):
            y.append(module(x, (cos, sin), mask)[0].unflatten(-1, (h, dv))[0, -sq:].transpose(0, 1))
            both = module.kv_a_proj_with_mqa(x)
            rows = module.kv_a_layernorm(both[..., :r])
        q = module.q_proj(x).unflatten(-1, (h, nope + dr)).transpose(1, 2)
        q_rot, k_rot = modeling_deepseek_v3.apply_rotary_pos_emb_interleave(q[..., nope:], both[:, None, :, r:], cos, sin)
        qc.append(torch.einsum("hid,hdr->hir", q[0, :, -sq:, :nope], w_uk.double()).float())
        qr.append(q_rot[0, :, -sq:].float())
        c.append(F.pad(rows[0], (0, 0, 0, max(lengths) - length)).float())
        kr.append(F.pad(k_rot[0, 0], (0, 0, 0, max(lengths) - length)).float())
    qc, qr, c, kr, y = (torch.stack(x) for x in (qc, qr, c, kr, y))
    scale = (nope + dr) ** -0.5
    pools, table = paged(gen, (c, kr), lengths)
    o, lse, o2, lse2 = [], [], [], []
    for n, length in enumerate(lengths):
        rows, rot, m = gather(pools[0], table, n, length).double(), gather(pools[1], table, n, length).double(), at_end(sq, length)
        score = (torch.einsum("hir,jr->hij", qc[n].double(), rows) + torch.einsum("hir,jr->hij", qr[n].double(), rot)) * scale
        o.append(torch.softmax(score.masked_fill(~m, -math.inf), -1) @ rows)
        lse.append(torch.logsumexp(score.masked_fill(~m, -math.inf), -1))
        a, l = dense(torch.cat([qc[n], qr[n]], -1)[None].double() @ torch.cat([rows, rot], -1).T * scale, rows[None, None].expand(1, h, -1, -1), m)
        o2.append(a[0]), lse2.append(l[0])
    o, lse, o2, lse2 = (torch.stack(x) for x in (o, lse, o2, lse2))
    miss = (torch.einsum("bhir,hdr->bhid", o, w_uv.double()) - y).abs().max().item()
    if miss > 2e-6:
        raise ValueError(f"absorbed and expanded latent attention differ by {miss:.1e}")
    write_twice(
        name,
        "MLA, absorbed decode over a paged latent cache",
        SPEC,
        "mla_absorbed",
        dict(B=2, Hq=h, Sq=sq, Sk=table.shape[1] * PAGE, R=r, Dr=dr),
        dict(qc=qc, qr=qr, c=pools[0], kr=pools[1], pages=table, kv_len=torch.tensor(lengths)),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        "absorbed formula in f64 on rows of DeepseekV3Attention.double(); o @ w_uv^T is what the module returns (y)",
        "transformers",
        by=f"own f64 formula; o @ w_uv^T against the module's expanded attention: {miss:.1e}",
        params=dict(scale=scale),
        extra=dict(w_uv=w_uv, y=y),
        note=WIDE,
    )


def tree():
    """A tree of drafts against each path decoded by itself."""
    name, b, hq, hkv, d, t, ctx = "tree_verify_7", 2, 4, 2, 16, 7, [21, 9]
    gen = generator(name)
    parents = [[-1, 0, 0, 1, 1, 2, 5], [-1, -1, 0, 1, 3, 3, 2]]
    lengths = [n + t for n in ctx]
    q, k, v = normal(gen, b, hq, t, d), normal(gen, b, max(lengths), hkv, d), normal(gen, b, max(lengths), hkv, d)
    pools, table = paged(gen, (k, v), lengths)
    anc, paths = torch.zeros(b, t, t, dtype=torch.bool), []
    for n in range(b):
        for leaf in range(t):
            path, at = [], leaf
            while at >= 0:
                path.insert(0, at)
                at = parents[n][at]
            anc[n, leaf, path] = True
            paths.append((n, leaf, path))
    o, lse = torch.zeros(b, hq, t, d, dtype=torch.float64), torch.zeros(b, hq, t, dtype=torch.float64)
    for n, leaf, path in paths:  # the path as a sequence of its own: the last row of causal attention
        rows = list(range(ctx[n])) + [ctx[n] + p for p in path]
        kp, vp = (gather(p, table, n, lengths[n])[rows].transpose(0, 1) for p in pools)
        qp = q[n][:, path]
        o[n, :, leaf] = one(qp, kp, vp, at_end(len(path), len(rows)))[:, -1]
        s = torch.einsum("hd,hjd->hj", q[n, :, leaf].double(), kp.double().repeat_interleave(hq // hkv, 0)) / math.sqrt(d)
        lse[n, :, leaf] = torch.logsumexp(s, -1)
    o2, lse2 = [], []
    for n in range(b):
        kn, vn = (gather(p, table, n, lengths[n]).transpose(0, 1)[None] for p in pools)
        mask = torch.cat([torch.ones(t, ctx[n], dtype=torch.bool), anc[n]], 1)
        a, l = dense(dots(q[n : n + 1], kn) / math.sqrt(d), spread(vn, hq), mask)
        o2.append(a[0]), lse2.append(l[0])
    write_twice(
        name,
        "tree verification",
        SPEC,
        "tree_verify",
        dict(B=b, Hq=hq, Hkv=hkv, T=t, Sk=table.shape[1] * PAGE, D=d),
        dict(q=q, k=pools[0], v=pools[1], pages=table, kv_len=torch.tensor(lengths), ctx=torch.tensor(ctx), anc=anc),
        dict(o=o, lse=lse),
        dict(o=torch.stack(o2), lse=torch.stack(lse2)),
        "each path decoded as a sequence of its own: SDPA(enable_gqa=True) in f64, last row",
        "torch",
        by="own f64 formula with the tree's mask",
    )


def merged(parts):
    """Partial (o, lse) merged by their lse; a part of -inf takes no part."""
    total = torch.logsumexp(torch.stack([x[1] for x in parts]), 0)
    return sum(torch.exp(l - total).nan_to_num(0.0)[..., None] * o for o, l in parts)


def cascade():
    """Results over parts of the keys, merged; plain attention over all keys is what comes out."""
    name, b, hq, hkv, sq, sp, sk, d = "merge_prefix_6", 3, 4, 2, 6, 33, 4, 16
    gen = generator(name)
    q, kp, vp, k, v = normal(gen, b, hq, sq, d), normal(gen, hkv, sp, d), normal(gen, hkv, sp, d), normal(gen, b, hkv, sk, d), normal(gen, b, hkv, sk, d)
    mask = torch.cat([torch.ones(sq, sp, dtype=torch.bool), at_end(sq, sk)], 1)
    every = lambda x, y: torch.cat([x.expand(b, -1, -1, -1), y], 2)
    o = F.scaled_dot_product_attention(q.double(), every(kp, k).double(), every(vp, v).double(), attn_mask=mask, enable_gqa=True)
    score = lambda x: dots(q, x) / math.sqrt(d)
    wide = lambda x: x.expand(b, -1, -1, -1)
    second = merged([dense(score(wide(kp)), spread(wide(vp), hq)), dense(score(k), spread(v, hq), at_end(sq, sk))])
    write_twice(
        name,
        "shared prefix, merged by lse",
        SPEC,
        "shared_prefix",
        dict(B=b, Hq=hq, Hkv=hkv, Sq=sq, Sp=sp, Sk=sk, D=d),
        {"q": q, "prefix.k": kp, "prefix.v": vp, "own.k": k, "own.v": v},
        dict(o=o),
        dict(o=second),
        "SDPA(enable_gqa=True) in f64 over prefix and own keys joined",
        "torch",
        by="own f64 partials merged by lse",
        note="the first two rows see no own key",
    )

    name, b, h, s = "merge_thirds_33", 1, 2, 33
    gen = generator(name)
    q, k, v = (normal(gen, b, h, s, d) for _ in range(3))
    o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    second = merged([dense(dots(q, k) / math.sqrt(d), v, at_end(s, s) & (torch.arange(s) % 3 == n)) for n in range(3)])
    write_twice(
        name,
        "three partial results, merged by lse",
        SPEC,
        "thirds",
        dict(B=b, H=h, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=o),
        dict(o=second),
        "SDPA(is_causal=True) in f64 over all keys",
        "torch",
        by="own f64 partials merged by lse",
        note="the first rows see no key of some parts",
    )


def main():
    """Writes the whole family."""
    int8()
    floats()
    latent()
    tree()
    cascade()


if __name__ == "__main__":
    main()
