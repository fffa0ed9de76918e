"""Sparse attentions: transformers' Longformer and LongT5, local-attention, flex_attention, fla's naive NSA and DSA, BigBird
by block indices; Longformer's dilated window, for which no released code runs on a CPU, on gathered keys.

Goes out: longformer_separate_*, longt5_tglobal_*, block_diagonal_*, buckets_causal_*, block_mask_*, host_blocks_*,
nsa_*, moba_*, dsa_*, longformer_dilated_* goldens. The second oracle is a dense f64 formula; for selections a plain loop over queries that ranks blocks
as the language defines. Cases are chosen so that no rank hangs on rounding.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from local_attention import LocalAttention
from transformers import LongformerConfig, LongT5Config
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
from transformers.models.longt5 import modeling_longt5

from bigbird import bigbird, counts
from common import FLEX, WIDE, Fixed, dense, dots, flex, generator, merge_heads, normal, qkv, split_heads, spread, widened, write_twice
from relative import distances, t5_both, table
from windows import hf_window

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fla.ops.dsa import naive as dsa_of
    from fla.ops.nsa import naive as nsa

FLA = "fla.ops.nsa.naive.naive_nsa_selection"


class ByLength(torch.nn.Module):
    """Stands in for a projection that a module applies to inputs of several lengths."""

    def __init__(self, *values):
        super().__init__()
        self.values = {x.shape[1]: x for x in values}

    def forward(self, hidden):
        return self.values[hidden.shape[1]].clone()


def longformer():
    """Longformer with separate global projections."""
    s, d, h, w = 64, 16, 2, 8
    gen = generator("longformer_separate")
    q, k, v, qg, kg, vg = (normal(gen, 1, h, s, d) for _ in range(6))
    glob = torch.zeros(1, s, dtype=torch.bool)
    glob[0, [0, 31, 63]] = True
    config = LongformerConfig(hidden_size=h * d, num_attention_heads=h, attention_window=[2 * w], attention_probs_dropout_prob=0.0)
    module = LongformerSelfAttention(config, 0).double().eval()
    for suffix, parts in (("", (q, k, v)), ("_global", (qg, kg, vg))):
        for part, x in zip(("query", "key", "value"), parts):
            setattr(module, part + suffix, Fixed(merge_heads(x).double().transpose(0, 1)))
    module.query_global.value = module.query_global.value[glob[0]]  # asked for the global rows only
    mask = torch.zeros(1, s, dtype=torch.float64).masked_fill(glob, 10000.0)
    import transformers.models.longformer.modeling_longformer as source

    with widened(source):
        o = module(torch.zeros(1, s, h * d, dtype=torch.float64), mask, torch.zeros(1, s, dtype=torch.bool), glob, True)[0]
    near = (distances(s).abs() <= w) | glob[:, None, None, :]
    rows = glob[:, None, :, None]
    a = dense(dots(q, k) / math.sqrt(d), v, near)[0]
    b = dense(dots(qg, kg) / math.sqrt(d), vg)[0]
    inputs = {"near.q": q, "near.k": k, "near.v": v, "far.q": qg, "far.k": kg, "far.v": vg, "glob": glob}
    write_twice(
        f"longformer_separate_{s}",
        "Longformer, separate global projections",
        "sparse.attn",
        "longformer_separate",
        dict(B=1, H=h, S=s, D=d),
        inputs,
        dict(o=split_heads(o, h)),
        dict(o=torch.where(rows, b, a)),
        f"LongformerSelfAttention(attention_window={2 * w}).double()(x, ...), global tokens 0, 31, 63, projections fixed",
        "transformers",
        params=dict(w=w),
        note=WIDE,
    )


def tglobal():
    """LongT5's transient global attention."""
    s, d, h, radius = 73, 16, 2, 10
    g = s // 16
    gen = generator("longt5_tglobal")
    q, k, v = qkv(gen, 1, h, s, d)
    q = q * d**-0.5
    ks, vs, rel, side = normal(gen, 1, h, g, d), normal(gen, 1, h, g, d), normal(gen, h, 32), normal(gen, h, 32)
    config = LongT5Config(
        d_model=h * d, d_kv=d, num_heads=h, local_radius=radius, global_block_size=16, dropout_rate=0.0, encoder_attention_type="transient-global"
    )
    module = modeling_longt5.LongT5TransientGlobalAttention(config, True).double().eval()
    module.q = Fixed(merge_heads(q).double())
    module.k, module.v = (ByLength(merge_heads(a).double(), merge_heads(b).double()) for a, b in ((k, ks), (v, vs)))
    module.o = torch.nn.Identity()
    module.relative_attention_bias.weight.copy_(rel.T.double())
    module.global_relative_attention_bias.weight.copy_(side.T.double())
    with widened(modeling_longt5):
        o = split_heads(module(torch.zeros(1, s, h * d, dtype=torch.float64), mask=torch.ones(1, s))[0], h)
    far = distances(s)
    block = (torch.arange(s) // 16).clamp(max=g - 1)
    bias = torch.cat([table(rel, far, t5_both), table(side, torch.arange(g)[None] - block[:, None], t5_both)], -1)
    seen = torch.cat([far.abs() <= radius, torch.ones(s, g, dtype=torch.bool)], -1)
    second = dense(dots(q, torch.cat([k, ks], 2)) + bias, torch.cat([v, vs], 2), seen)[0]
    inputs = dict(q=q, k=k, v=v, k_side=ks, v_side=vs, rel=rel, rel_side=side)
    write_twice(
        f"longt5_tglobal_{s}",
        "LongT5, transient global",
        "sparse.attn",
        "longt5_tglobal",
        dict(B=1, H=h, S=s, G=g, D=d, R=32),
        inputs,
        dict(o=o),
        dict(o=second),
        f"LongT5TransientGlobalAttention(local_radius={radius}, global_block_size=16).double()(x, mask=ones), projections fixed",
        "transformers",
        params=dict(radius=radius),
        note=WIDE + "; the last 9 tokens fill no block and count as the one before",
    )


def buckets():
    """local-attention: blocks on the diagonal, and its default buckets."""
    s, d, h, w = 77, 16, 2, 16
    far = distances(s)
    step = torch.arange(s)[:, None] // w - torch.arange(s)[None] // w
    for kernel, mechanism, seen, args in [
        ("block_diagonal", "block-diagonal (local-attention)", step == 0, dict(causal=False, look_backward=0, look_forward=0)),
        ("buckets_causal", "bucketed local window (local-attention)", (far <= 0) & (step <= 1), dict(causal=True)),
    ]:
        q, k, v = qkv(generator(kernel), 1, h, s, d)
        module = LocalAttention(window_size=w, autopad=True, exact_windowsize=False, use_rotary_pos_emb=False, **args)
        if args["causal"]:
            o = module(q.double(), k.double(), v.double())
        else:  # padding keys have to be masked by the caller
            o = module(q.double(), k.double(), v.double(), mask=torch.ones(1, s, dtype=torch.bool))
        write_twice(
            f"{kernel}_{s}_w{w}",
            mechanism,
            "sparse.attn",
            kernel,
            dict(B=1, H=h, S=s, D=d),
            dict(q=q, k=k, v=v),
            dict(o=o),
            dict(o=dense(dots(q, k) / math.sqrt(d), v, seen)[0]),
            f"LocalAttention(window_size={w}, autopad=True, exact_windowsize=False, use_rotary_pos_emb=False, {args})(q, k, v) in f64",
            "local-attention",
            params=dict(w=w),
        )


def block_mask():
    """Blocks allowed by a tensor of the host; one row of blocks is empty."""
    sq, sk, d, h = 40, 77, 16, 2
    gen = generator("block_mask")
    q, k, v = normal(gen, 2, h, sq, d), normal(gen, 2, h, sk, d), normal(gen, 2, h, sk, d)
    blk = torch.from_numpy(gen.random((2, h, 3, 5)) < 0.5)
    blk[1, 0, 1] = False
    o, lse = flex(q, k, v, lambda b, h, i, j: blk[b, h, i // 16, j // 16])
    wide = blk.repeat_interleave(16, 2).repeat_interleave(16, 3)[:, :, :sq, :sk]
    o2, lse2 = dense(dots(q, k) / math.sqrt(d), v, wide)
    write_twice(
        f"block_mask_{sq}x{sk}",
        "block mask from data",
        "sparse.attn",
        "block_mask",
        dict(B=2, H=h, Sq=sq, Sk=sk, D=d, NQ=3, NK=5),
        dict(q=q, k=k, v=v, blk=blk),
        dict(o=o, lse=lse),
        dict(o=o2, lse=lse2),
        FLEX,
        "torch",
    )


def host_blocks():
    """BigBird's plan as lists of block indices: blocks named twice count twice."""
    s, d, h, block = 192, 16, 1, 16
    for train in (False, True):
        name = "host_blocks_bigbird_" + ("train" if train else "eval")
        q, k, v = qkv(generator(name), 1, h, s, d)
        o, plan = bigbird(q, k, v, block, 3, train)
        count = counts(plan, s // block)
        rows = [[[c for c in range(s // block) for _ in range(int(count[a, r, c]))] for r in range(s // block)] for a in range(h)]
        n = max(len(x) for head in rows for x in head)
        t = torch.tensor([[x + [-1] * (n - len(x)) for x in head] for head in rows])[None]
        times = count.repeat_interleave(block, 1).repeat_interleave(block, 2)[None].double()
        second = dense(dots(q, k) / math.sqrt(d) + torch.log(times), v)[0]
        write_twice(
            name,
            "block indices from the host (BigBird's plan)",
            "sparse.attn",
            "host_blocks",
            dict(B=1, H=h, S=s, D=d, N=n, NQ=s // block),
            dict(q=q, k=k, v=v, t=t),
            dict(o=o),
            dict(o=second),
            f"BigBirdBlockSparseAttention(block_size={block}, num_random_blocks=3, seed=11).double().train({train})(x, masks of ones), projections fixed",
            "transformers",
            by="own f64 formula with log(count)",
        )


def ranked(q, kc, size, stride, block, n, keep, pool, share, scale):
    """Blocks that every query takes, [B, H, S, n] padded by -1: a loop over queries, from the language's definition.

    `kc` has a head per query head. A block's score is made of the windows of `block` keys that begin in it and are wholly
    visible; kept blocks come first and count.
    """
    b, hq, s, _ = q.shape
    group = share or 1
    blocks = -(-s // size)
    out = torch.full((b, hq, s, n), -1)
    closest = math.inf
    for bi in range(b):
        for first in range(0, hq, group):
            for i in range(s):
                total = torch.zeros(blocks, dtype=torch.float64)
                for h in range(first, first + group):
                    x = (kc[bi, h].double() @ q[bi, h, i].double()) * scale
                    seen = torch.arange(len(x)) * stride + block - 1 <= i
                    p = torch.exp(x - x[seen].max()) * seen / torch.exp(x[seen] - x[seen].max()).sum() if pool == "softmax" and seen.any() else x
                    for c in range(blocks):
                        inside = seen & (torch.arange(len(x)) * stride // size == c)
                        total[c] += p[inside].sum() if pool == "softmax" and inside.any() else p[inside].max() if inside.any() else -math.inf
                kept = sorted({0: True, i // size: True} if "first" in keep else {i // size: True})[:n]
                rest = [c for c in range(blocks) if c not in kept and total[c] > -math.inf]
                rest.sort(key=lambda c: (-float(total[c]), c))
                room = n - len(kept)
                if 0 < room < len(rest):
                    closest = min(closest, float(total[rest[room - 1]] - total[rest[room]]))
                chosen = sorted(kept + rest[:room])
                out[bi, first : first + group, i, : len(chosen)] = torch.tensor(chosen)
    if closest < 1e-5:
        raise ValueError(f"two blocks rank {closest:.1e} apart: draw other inputs")
    return out


def pooled(x, block, stride):
    """Means of rows [i stride, i stride + block)."""
    return x.double().unfold(2, block, stride).mean(-1)


def seen_of(t, size, s):
    """Mask [B, H, S, S] of pairs that the indices and the causal order admit."""
    hit = (t[..., None] == torch.arange(-(-s // size))).any(-2)
    return hit.repeat_interleave(size, -1)[..., :s] & (distances(s) <= 0)


def fla_selected(q, k, v, t, size):
    """fla's selected branch with a choice for every query head, in f64."""
    swap = lambda x: x.transpose(1, 2)
    hq = q.shape[1]
    with widened(nsa):
        return swap(nsa.naive_nsa_selection(swap(q.double()), swap(spread(k, hq).double()), swap(spread(v, hq).double()), swap(t), size))


def selected():
    """NSA's selected branch, MoBA: the choice is formed by the definition, the attention by fla."""
    s, d, hq, hkv, size = 77, 16, 4, 2, 16
    cases = [
        ("nsa_max", "NSA, selected blocks, pool = max", 8, 4, ("first", "current"), "max", 2, 1.0),
        ("nsa_softmax", "NSA, selected blocks, pool = softmax, gated", 8, 4, ("first", "current"), "softmax", 2, d**-0.5),
        ("moba", "MoBA", 16, 16, ("current",), "max", None, 1.0),
    ]
    for kernel, mechanism, block, stride, keep, pool, share, scale in cases:
        gen = generator(kernel)
        q, k, v = normal(gen, 1, hq, s, d), normal(gen, 1, hkv, s, d), normal(gen, 1, hkv, s, d)
        kc = spread(pooled(k, block, stride), hq)
        t = ranked(q, kc, size, stride, block, 3, keep, pool, share, scale)
        o = fla_selected(q, k, v, t, size)
        inputs, outputs = dict(q=q, k=k, v=v), dict(o=o)
        mask = seen_of(t, size, s)
        vectors = choice(q, kc, size, stride, block, 3, keep, pool, share, scale)
        if not torch.equal(mask, vectors):
            raise ValueError(f"{kernel}: the two ways to choose blocks differ")
        o2, lse2 = dense(dots(q, k) / math.sqrt(d), spread(v, hq), mask)
        second = dict(o=o2)
        if kernel == "nsa_softmax":
            g = torch.sigmoid(normal(gen, 1, s, hq, 3))
            inputs["g"] = g
            gate = g[..., 1].transpose(1, 2)[..., None].double()
            outputs, second = dict(o=o * gate), dict(o=o2 * gate)
        if kernel == "moba":
            outputs["lse"] = torch.logsumexp((dots(q, k) / math.sqrt(d)).masked_fill(~mask, -math.inf), -1)
            second["lse"] = lse2
        write_twice(
            f"{kernel}_{s}",
            mechanism,
            "sparse.attn",
            kernel,
            dict(B=1, Hq=hq, Hkv=hkv, S=s, D=d),
            inputs,
            outputs,
            second,
            f"{FLA}(q, k, v, block_indices, 16), indices formed in f64 by the language's rule",
            "fla-core",
            by="own f64 formula; blocks chosen a second time with tensors",
            note=WIDE,
        )


def choice(q, kc, size, stride, block, n, keep, pool, share, scale):
    """The mask that a choice of blocks comes to, by sorting whole tensors: what `ranked` does in loops."""
    b, hq, s, _ = q.shape
    blocks, i = -(-s // size), torch.arange(s)[:, None]
    x = (q.double() @ kc.transpose(-1, -2)) * scale
    start = torch.arange(kc.shape[2]) * stride
    x = x.masked_fill(start + block - 1 > i, -math.inf)
    if pool == "softmax":
        x = torch.softmax(x, -1).nan_to_num(0.0)
        score = torch.zeros(b, hq, s, blocks, dtype=torch.float64).index_add_(-1, start // size, x)
        score = score.masked_fill(torch.arange(blocks) * size + block - 1 > i, -math.inf)
    else:
        score = torch.full((b, hq, s, blocks), -math.inf, dtype=torch.float64).index_reduce_(3, start // size, x, "amax")
    if share:
        score = score.unflatten(1, (hq // share, share)).sum(2, keepdim=True).expand(-1, -1, share, -1, -1).flatten(1, 2)
    kept = torch.arange(blocks) == i // size
    if "first" in keep:
        kept = kept | (torch.arange(blocks) == 0)
    score = score.masked_fill(kept, math.inf)
    order = torch.sort(score, dim=-1, stable=True, descending=True)
    hit = torch.zeros(b, hq, s, blocks, dtype=torch.bool).scatter_(-1, order.indices[..., :n], order.values[..., :n] > -math.inf)
    return hit.repeat_interleave(size, -1)[..., :s] & (distances(s) <= 0)


def whole():
    """NSA's three branches; the host chooses blocks for every query, as fla does."""
    s, d, hq, hkv, window, n = 77, 16, 4, 2, 20, 4
    gen = generator("nsa_whole")
    q, k, v = normal(gen, 1, hq, s, d), normal(gen, 1, hkv, s, d), normal(gen, 1, hkv, s, d)
    g = torch.sigmoid(normal(gen, 1, s, hq, 3))
    swap = lambda x: x.transpose(1, 2)
    kc, vc = pooled(k, 16, 16), pooled(v, 16, 16)
    last = lambda x, y: torch.cat([x, y[:, :, 64:].double().mean(2, keepdim=True)], 2)  # fla ranks the ragged block too
    with widened(nsa):
        t = nsa.naive_nsa_topk(swap(q.double()), swap(last(kc, k)), n, 16, d**-0.5)
        cmp, _ = nsa.naive_nsa_compression(swap(q.double()), swap(kc), swap(vc), 16, d**-0.5)
        slc = nsa.naive_nsa_selection(swap(q.double()), swap(k.double()), swap(v.double()), t, 16)
    swa = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=hf_window(window, q, k), enable_gqa=True)
    gate = [g[..., n].transpose(1, 2)[..., None].double() for n in range(3)]
    o = gate[0] * swap(cmp) + gate[1] * swap(slc) + gate[2] * swa
    t = torch.where(swap(t) < 0, 99, swap(t)).sort(-1).values
    t = torch.where(t == 99, -1, t)  # -1 ends a row
    far, score = distances(s), dots(q, k) / math.sqrt(d)
    early = 16 * (torch.arange(4)[None] + 1) - 1 <= torch.arange(s)[:, None]
    own = gate[0] * dense(dots(q, kc) / math.sqrt(d), spread(vc, hq), early)[0] + gate[1] * dense(score, spread(v, hq), seen_of(spread(t, hq), 16, s))[0]
    own = own + gate[2] * dense(score, spread(v, hq), (far <= 0) & (far > -window))[0]
    write_twice(
        f"nsa_whole_{s}",
        "NSA: compressed, selected (host's choice) and window",
        "sparse.attn",
        "nsa_whole",
        dict(B=1, Hq=hq, Hkv=hkv, S=s, D=d, N=n),
        dict(q=q, k=k, v=v, g=g, t=t),
        dict(o=o),
        dict(o=own),
        f"fla.ops.nsa.naive: naive_nsa_topk(block_counts={n}), naive_nsa_compression, naive_nsa_selection; the window by SDPA with transformers' mask",
        "fla-core",
        params=dict(window=window),
        note=WIDE,
    )


def dsa():
    """DSA: the keys that fla's lightning indexer chose for every query, for all heads alike; blocks of one key."""
    s, d, hq, hkv, n = 45, 16, 4, 2, 9
    gen = generator("dsa")
    q, k, v = normal(gen, 2, hq, s, d), normal(gen, 2, hkv, s, d), normal(gen, 2, hkv, s, d)
    qi, ki, wi = normal(gen, 2, s, 4, 8), normal(gen, 2, s, 8), normal(gen, 2, s, 4)
    swap = lambda x: x.transpose(1, 2)
    with widened(dsa_of):
        o, t = dsa_of.naive_dsa(*(swap(x).double() for x in (q, k, v)), qi.double(), ki.double(), wi.double(), topk=n, return_indices=True)
    t = torch.where(t < 0, s, t).sort(-1).values
    t = torch.where(t == s, -1, t)[:, None].expand(-1, hkv, -1, -1)  # -1 ends a row
    second = dense(dots(q, k) / math.sqrt(d), spread(v, hq), seen_of(spread(t, hq), 1, s))[0]
    write_twice(
        f"dsa_{s}",
        "DSA, keys chosen by the lightning indexer",
        "sparse.attn",
        "dsa",
        dict(B=2, Hq=hq, Hkv=hkv, S=s, D=d, N=n),
        dict(q=q, k=k, v=v, t=t),
        dict(o=swap(o)),
        dict(o=second),
        f"fla.ops.dsa.naive.naive_dsa(q, k, v, q_idx, k_idx, w_idx, topk={n}, return_indices=True); its indices are bound",
        "fla-core",
        note=WIDE,
    )


def dilated():
    """Longformer's dilated window: w keys on each side, h + 1 apart in head h."""
    s, d, h, w = 65, 16, 3, 5
    name = f"longformer_dilated_{s}"
    q, k, v = qkv(generator(name), 1, h, s, d)
    heads = []
    for head in range(h):
        at = torch.arange(s)[:, None] + torch.arange(-w, w + 1)[None] * (head + 1)  # [S, 2 w + 1]
        inside, at = (at >= 0) & (at < s), at.clamp(0, s - 1)
        rows = q[0, head].double()[:, None], k[0, head].double()[at], v[0, head].double()[at]
        heads.append(F.scaled_dot_product_attention(*rows, attn_mask=inside[:, None])[:, 0])
    far, step = distances(s), torch.arange(1, h + 1)[:, None, None]
    write_twice(
        name,
        "Longformer, dilated window",
        "sparse.attn",
        "longformer_dilated",
        dict(B=1, H=h, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=torch.stack(heads)[None]),
        dict(o=dense(dots(q, k) / math.sqrt(d), v, (far.abs() <= w * step) & (far % step == 0))[0]),
        f"SDPA in f64, one call per head on keys gathered at i + m (h + 1), abs(m) <= {w}",
        "torch",
        params=dict(w=w),
        note="released code dilates in a CUDA kernel alone",
    )


def main():
    """Writes the whole family."""
    dsa()
    dilated()
    longformer()
    tglobal()
    buckets()
    block_mask()
    host_blocks()
    selected()
    whole()


if __name__ == "__main__":
    main()
