"""Derived tensors and feature maps: packed sequences one by one through SDPA, fla's parallel form, joined keys.

Goes out: packed_*, linear_relu_*, squared_then_turned_*, diag_norm_*, joined_keys_* goldens.
"""

import math
import warnings

import torch
import torch.nn.functional as F

from common import WIDE, dense, dots, generator, normal, qkv, spread, widened, write_twice
from relative import distances
from rope import half
from rope_scaling import hf_freqs, powers, table, turn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fla.ops.simple_gla import naive as simple_gla

SPEC = "derived.attn"


def packed():
    """Documents of 1, 20, 0 and 44 tokens."""
    lengths, hq, hkv, d = [1, 20, 0, 44], 4, 2, 16
    s, gen = sum(lengths), generator("packed")
    q, k, v = normal(gen, s, hq, d), normal(gen, s, hkv, d), normal(gen, s, hkv, d)
    cu = torch.tensor([0] + lengths).cumsum(0)
    o, lse = torch.zeros(s, hq, d, dtype=torch.float64), torch.zeros(1, hq, s, dtype=torch.float64)
    rows = [x.transpose(0, 1)[None] for x in (q, k, v)]
    for a, b in zip(cu[:-1], cu[1:]):
        if a == b:
            continue
        qs, ks, vs = (x[:, :, a:b].double() for x in rows)
        o[a:b] = F.scaled_dot_product_attention(qs, ks, vs, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
        score = (dots(qs, ks) / math.sqrt(d)).masked_fill(distances(int(b - a)) > 0, -math.inf)
        lse[:, :, a:b] = torch.logsumexp(score, -1)
    doc = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    o2, lse2 = dense(dots(rows[0], rows[1]) / math.sqrt(d), spread(rows[2], hq), (distances(s) <= 0) & (doc[:, None] == doc))
    write_twice(
        f"packed_{s}", "packed sequences by cumulative lengths", SPEC, "packed", dict(T=s, Hq=hq, Hkv=hkv, D=d, N=len(cu)), dict(q=q, k=k, v=v, cu=cu),
        dict(o=o, lse=lse[0]), dict(o=o2[0].transpose(0, 1), lse=lse2[0]), "SDPA(is_causal=True, enable_gqa=True) in f64, once per document", "torch",
        by="own f64 formula with a mask by document", note="a document of no tokens among them; layout (T, H, D)",
    )  # fmt: skip


def maps():
    """Feature maps in an attention."""
    s, d, h = 33, 16, 2
    q, k, v = qkv(generator("linear_relu"), 1, h, s, d)
    swap = lambda x: x.transpose(1, 2)
    with widened(simple_gla):
        o, _ = simple_gla.naive_parallel_simple_gla(*(swap(F.relu(x.double())) for x in (q, k)), swap(v.double()), torch.zeros(1, s, h, dtype=torch.float64))
    own = (torch.where(q > 0, q, 0).double() @ torch.where(k > 0, k, 0).double().mT / math.sqrt(d)).tril() @ v.double()
    write_twice(
        f"linear_relu_{s}", "map by relu, plain weights", SPEC, "linear_relu", dict(B=1, H=h, S=s, D=d), dict(q=q, k=k, v=v), dict(o=swap(o)), dict(o=own),
        "fla.ops.simple_gla.naive.naive_parallel_simple_gla(relu(q), relu(k), v, g=0)", "fla-core", note=WIDE, limit=1e-9,
    )  # fmt: skip

    q, k, v = qkv(generator("squared_then_turned"), 1, h, s, d)
    pos = torch.arange(s)[None]
    cos, sin = table(hf_freqs("linear", d, rope_theta=1e4, factor=1.0)[0], pos)
    qr, kr = half(q.double() ** 2, F.silu(k.double()), cos, sin, d)
    o = F.scaled_dot_product_attention(qr, kr, v.double(), is_causal=True)
    inv = powers(d, 1e4)
    score = dots(turn(q.double() * q.double(), inv, pos), turn(k.double() / (1 + torch.exp(-k.double())), inv, pos)) / math.sqrt(d)
    write_twice(
        f"squared_then_turned_{s}", "map by a function of the author, then rope", SPEC, "squared_then_turned", dict(B=1, H=h, S=s, D=d), dict(q=q, k=k, v=v),
        dict(o=o), dict(o=dense(score, v, distances(s) <= 0)[0]), "q^2, silu(k), llama apply_rotary_pos_emb (angles f32), SDPA(is_causal=True) in f64", "transformers", limit=4e-6,
    )  # fmt: skip


def normed():
    """A norm over all heads after an attention: blocks on the diagonal, one by one and as a mask."""
    name, b, h, s, d, w = "diag_norm_41", 1, 3, 41, 16, 12
    gen = generator(name)
    q, k, v, gate = (normal(gen, b, h, s, d) for _ in range(4))
    silu, o = lambda x: F.silu(x.double()), torch.zeros(b, h, s, d, dtype=torch.float64)
    for at in range(0, s, w):
        part = slice(at, at + w)
        o[:, :, part] = (silu(q[:, :, part]) @ silu(k[:, :, part]).mT).tril() @ v[:, :, part].double()
    merged = o.transpose(1, 2).flatten(-2)  # as the layer sees it: [B, S, H D]
    merged = torch.nn.functional.rms_norm(merged, (h * d,), eps=1e-6)
    o = merged.unflatten(-1, (h, d)).transpose(1, 2) * gate.double()
    own = lambda x: x.double() / (1 + torch.exp(-x.double()))
    block = torch.arange(s) // w
    rows = (dots(own(q), own(k)) * ((distances(s) <= 0) & (block[:, None] == block))) @ v.double()
    second = rows / torch.sqrt((rows**2).mean((1, 3), keepdim=True) + 1e-6) * gate.double()
    write_twice(
        name, "norm over all heads after plain weights (DiagAttention)", SPEC, "diag_norm", dict(B=b, H=h, S=s, D=d), dict(q=q, k=k, v=v, gate=gate), dict(o=o), dict(o=second),
        "silu, block by block in f64, torch.nn.functional.rms_norm over H D, gate", "torch", params=dict(w=w), limit=1e-9,
    )  # fmt: skip


def joined():
    """Keys of two tensors one after the other."""
    b, hq, hkv, sq, sp, sk, d = 2, 4, 2, 9, 21, 9, 16
    gen = generator("joined_keys")
    q, kp, vp, k, v = normal(gen, b, hq, sq, d), *(normal(gen, b, hkv, n, d) for n in (sp, sp, sk, sk))
    score = torch.cat([dots(q, kp), dots(q, k)], -1) / math.sqrt(d)
    mask = distances(sq, sp + sk, True) <= 0
    kk, vv = torch.cat([kp, k], 2), torch.cat([vp, v], 2)
    o = F.scaled_dot_product_attention(q.double(), kk.double(), vv.double(), attn_mask=mask, enable_gqa=True)
    lse = torch.logsumexp((dots(q, kk) / math.sqrt(d)).masked_fill(~mask, -math.inf), -1)
    o2, lse2 = dense(score, spread(vv, hq), mask)
    write_twice(
        f"joined_keys_{sq}x{sp + sk}", "keys of two tensors joined", SPEC, "joined_keys", dict(B=b, Hq=hq, Hkv=hkv, Sq=sq, Sp=sp, Sk=sk, D=d), dict(q=q, kp=kp, vp=vp, k=k, v=v),
        dict(o=o, lse=lse), dict(o=o2, lse=lse2), "SDPA(enable_gqa=True) in f64 over the joined keys, the last query on the last key", "torch",
    )  # fmt: skip


def main():
    """Writes the whole family."""
    packed()
    maps()
    normed()
    joined()


if __name__ == "__main__":
    main()
