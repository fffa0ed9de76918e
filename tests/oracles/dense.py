"""Dense and causal attention, given masks and biases; torch's scaled_dot_product_attention and flex_attention.

Goes out: dense_*, causal_*, bool_mask*, score_bias* goldens in f32, and causal in f16 and bf16.
"""

import torch
import torch.nn.functional as F

from common import DTYPES, FLEX, additive, flex, generator, normal, qkv, write

SDPA = "torch.nn.functional.scaled_dot_product_attention(q, k, v{}) on f64 copies; lse = torch.logsumexp(f64 scores)"


def lse_of(q, k, mask=None, bias=None):
    """Natural-log LSE of the scaled scores, by torch.logsumexp in f64."""
    s = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    s = s if bias is None else s + bias.double()
    s = s if mask is None else s + additive(mask)
    return torch.logsumexp(s, -1)


def dense():
    """Lengths 1, 17, 33, 65, 129 against each other; D of 32, 64, 80; another width for v."""
    for b, h, sq, sk, d, dv in [(2, 2, 1, 1, 32, 32), (2, 2, 17, 33, 32, 32), (1, 1, 33, 65, 80, 80), (1, 1, 65, 129, 64, 64), (1, 2, 17, 65, 64, 32)]:
        name = f"dense_{sq}x{sk}_d{d}" + (f"_dv{dv}" if dv != d else "")
        gen = generator(name)
        q, k, v = normal(gen, b, h, sq, d), normal(gen, b, h, sk, d), normal(gen, b, h, sk, dv)
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
        dims = dict(B=b, H=h, Sq=sq, Sk=sk, D=d, Dv=dv)
        write(name, "dense.attn", "dense", dims, dict(q=q, k=k, v=v), dict(o=o, lse=lse_of(q, k)), SDPA.format(""))


def causal_square():
    """Sq == Sk: torch's is_causal. f32, and f16 and bf16 with torch's own low precision output beside."""
    for s, d, dtype in [(1, 32, "f32"), (17, 64, "f32"), (33, 80, "f32"), (129, 64, "f32"), (129, 64, "f16"), (129, 64, "bf16")]:
        name = f"causal_{s}_d{d}" + ("" if dtype == "f32" else f"_{dtype}")
        h = 1 if s == 129 else 2
        q, k, v = qkv(generator(name), 1, h, s, d, dtype)
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
        outputs = dict(o=o, lse=lse_of(q, k, torch.ones(s, s).tril().bool()))
        if dtype != "f32":
            outputs["o_low"] = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            assert outputs["o_low"].dtype == DTYPES[dtype]
        dims = dict(B=1, H=h, Sq=s, Sk=s, D=d)
        write(name, "causal.attn", "causal", dims, dict(q=q, k=k, v=v), outputs, SDPA.format(", is_causal=True"), dtype=dtype)


def causal_rectangular():
    """Sq != Sk at the bottom right, with empty rows where Sq > Sk; and torch's own top-left reading."""
    for sq, sk, d in [(1, 129, 64), (17, 65, 32), (17, 129, 80), (65, 17, 32), (129, 33, 32)]:
        name = f"causal_br_{sq}x{sk}_d{d}"
        gen, h = generator(name), 1 if sk == 129 else 2
        q, k, v = normal(gen, 1, h, sq, d), normal(gen, 1, h, sk, d), normal(gen, 1, h, sk, d)
        o, lse = flex(q, k, v, lambda b, h, i, j, shift=sk - sq: j <= i + shift)
        dims = dict(B=1, H=h, Sq=sq, Sk=sk, D=d)
        note = f"rows 0..{sq - sk} see no key: o is 0, lse is -inf" if sq > sk else ""
        write(name, "causal.attn", "causal", dims, dict(q=q, k=k, v=v), dict(o=o, lse=lse), FLEX + ", mask j <= i + Sk - Sq", note=note)
    for sq, sk in [(17, 33), (33, 17)]:
        name = f"causal_tl_{sq}x{sk}_d32"
        gen = generator(name)
        q, k, v = normal(gen, 2, 2, sq, 32), normal(gen, 2, 2, sk, 32), normal(gen, 2, 2, sk, 32)
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
        lse = lse_of(q, k, torch.ones(sq, sk).tril().bool())
        dims = dict(B=2, H=2, Sq=sq, Sk=sk, D=32)
        write(name, "causal.attn", "causal_top_left", dims, dict(q=q, k=k, v=v), dict(o=o, lse=lse), SDPA.format(", is_causal=True"))


def given():
    """A random boolean mask (with rows that see nothing) and a random additive bias."""
    for sq, sk, d in [(17, 129, 32), (65, 33, 32)]:
        name = f"bool_mask_{sq}x{sk}_d{d}"
        gen = generator(name)
        q, k, v = normal(gen, 1, 2, sq, d), normal(gen, 1, 2, sk, d), normal(gen, 1, 2, sk, d)
        m = torch.from_numpy(gen.random((1, 2, sq, sk)) < 0.5)
        m[0, 0, 3] = False
        m[0, 1, sq - 1] = False
        o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=m)
        dims = dict(B=1, H=2, Sq=sq, Sk=sk, D=d)
        note = f"rows (h 0, i 3) and (h 1, i {sq - 1}) see no key"
        write(name, "given.attn", "bool_mask", dims, dict(q=q, k=k, v=v, m=m), dict(o=o, lse=lse_of(q, k, m)), SDPA.format(", attn_mask=m"), note=note)
    name = "score_bias_33x65_d32"
    gen = generator(name)
    q, k, v = normal(gen, 1, 2, 33, 32), normal(gen, 1, 2, 65, 32), normal(gen, 1, 2, 65, 32)
    bias = normal(gen, 1, 2, 33, 65)
    o = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=bias.double())
    dims = dict(B=1, H=2, Sq=33, Sk=65, D=32)
    write(name, "given.attn", "score_bias", dims, dict(q=q, k=k, v=v, bias=bias), dict(o=o, lse=lse_of(q, k, bias=bias)), SDPA.format(", attn_mask=bias"))


def main():
    """Writes the whole family."""
    dense()
    causal_square()
    causal_rectangular()
    given()


if __name__ == "__main__":
    main()
