"""Derives every golden a second time, in numpy f64 from the formula alone, and prints the largest errors.

Comes in: tests/goldens/*.safetensors, read with 20 lines of our own (no torch, no safetensors
package: this also proves the file format). Goes out: one line per file, exit code 1 if any is beyond its tolerance class
or a file has a kernel that no formula here covers. The formulas repeat what each specification says; masks
are written from the mathematics and not from the scripts that made the files. Files whose script held them against
a second oracle (`second` in the provenance) are only read, and their metadata held against the tensors.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I32": np.int32, "I64": np.int64, "BOOL": np.bool_, "F64": np.float64}
# (atol, rtol, relative L2) of o, and atol of lse. f32 has the atol times max(1, max |score| / 4).
GATES = {"f32": (2e-6, 1e-5, 2e-6, 1e-5), "f16": (2e-3, 2e-3, 1e-3, 1e-4), "bf16": (1.5e-2, 1.6e-2, 6e-3, 1e-4)}


def read(path):
    """Tensors (bf16 widened to f32) and metadata of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata, tensors = header.pop("__metadata__"), {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        raw = data[8 + size + start : 8 + size + end]
        if info["dtype"] == "BF16":
            value = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            value = np.frombuffer(raw, KINDS[info["dtype"]])
        tensors[name] = value.reshape(info["shape"])
    return tensors, metadata


class Case:
    """One golden with f64 inputs, and index grids i, j of logical positions."""

    def __init__(self, tensors, metadata):
        self.t = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in tensors.items()}
        self.params, self.dims = json.loads(metadata["params"]), json.loads(metadata["dims"])
        d = self.dims
        self.sq = d.get("Sq", d.get("S", d.get("T")))
        self.sk = d.get("Sk", self.sq)
        self.row, self.j = np.arange(self.sq)[:, None], np.arange(self.sk)[None, :]
        self.q, self.k, self.v = self.t["q"], self.t["k"], self.t["v"]
        self.scale = 1 / math.sqrt(d["D"])

    def at_end(self):
        """Logical query positions when the last query stands on the last key."""
        return self.row + self.sk - self.sq

    def heads(self, interleaved=False):
        """Key head of every query head."""
        hq, hkv = self.q.shape[1], self.k.shape[1]
        return np.arange(hq) % hkv if interleaved else np.arange(hq) // (hq // hkv)

    def dots(self, q=None, k=None, interleaved=False):
        """q . k for every (b, h, i, j)."""
        q, k = self.q if q is None else q, self.k if k is None else k
        return np.einsum("bhid,bhjd->bhij", q, k[:, self.heads(interleaved)])

    def softmax(self, score, mask=True, sink=None, interleaved=False):
        """o and lse of a masked softmax; an empty row gives 0 and -inf (or the sink)."""
        score = np.where(mask, score, -np.inf)
        top = score.max(-1) if sink is None else np.maximum(score.max(-1), sink[None, :, None])
        base = np.where(np.isfinite(top), top, 0.0)
        e = np.exp(score - base[..., None])
        total = e.sum(-1) + (0 if sink is None else np.exp(sink[None, :, None] - base))
        o = np.einsum("bhij,bhjd->bhid", e, self.v[:, self.heads(interleaved)])
        with np.errstate(divide="ignore"):
            lse = base + np.log(total)
        seen = np.where(np.isfinite(score), np.abs(score), 0).max()
        return o / np.where(total > 0, total, 1)[..., None], lse, seen


def causal(c):
    return c.softmax(c.dots() * c.scale, c.j <= c.at_end())


def gqa_interleaved(c):
    return c.softmax(c.dots(interleaved=True) * c.scale, c.j <= c.row, interleaved=True)


def alibi(c, slope=None):
    h = c.dims["H"]
    slope = np.array([2.0 ** (-8 * (n + 1) / h) for n in range(h)]) if slope is None else slope
    return c.softmax(c.dots() * c.scale - slope[:, None, None] * (c.row - c.j), c.j <= c.row)


def bucket(r, n, far):
    """T5's bucket of a distance r >= 0, in exact integer form: half linear, half logarithmic.

    floor(log(r / e) / log(far / e) * e) >= m  if and only if  (r / e)^e >= (far / e)^m.
    """
    e = n // 2
    if r < e:
        return r
    m = 0
    while m < n - 1 - e and r**e * e ** (m + 1) >= far ** (m + 1) * e**e:
        m += 1
    return e + m


def t5(c, both):
    s, rel = c.sq, c.t["rel"]
    if both:
        table = np.array([(16 if d > 0 else 0) + bucket(abs(d), 16, 128) for d in range(-s, s + 1)])
        return c.softmax(c.dots() + rel[:, table[c.j - c.row + s]])
    table = np.array([bucket(r, 32, 128) for r in range(s)])
    return c.softmax(c.dots() + rel[:, table[np.maximum(c.row - c.j, 0)]], c.j <= c.row)


def window_causal(c):
    back = c.at_end() - c.j
    return c.softmax(c.dots() * c.scale, (back >= 0) & (back < c.params["W"]))


def window_both(c):
    near = np.abs(c.row - c.j) <= c.params["w"]
    if "glob" in c.t:
        g = c.t["glob"][:, None]
        near = near | g[..., :, None] | g[..., None, :]
    return c.softmax(c.dots() * c.scale, near)


def swa_sinks(c):
    i, p = c.at_end(), c.params
    return c.softmax(c.dots() * c.scale, (c.j <= i) & ((i - c.j < p["window"]) | (c.j < p["keep"])), sink=c.t["sink"])


def softcap(c):
    p, back = c.params, c.row - c.j
    x = c.dots() * p["scale"]
    e = np.exp(-2 * np.abs(x) / p["c"])
    capped = p["c"] * np.sign(x) * (1 - e) / (1 + e)
    return c.softmax(capped, (back >= 0) & (back < p.get("window", c.sk + 1)))


def prefix_lm(c):
    return c.softmax(c.dots() * c.scale, (c.j <= c.row) | (c.j < c.t["prefix"][:, None, None, None]))


def doc_causal(c):
    doc = c.t["doc"][:, None]
    return c.softmax(c.dots() * c.scale, (c.j <= c.row) & (doc[..., :, None] == doc[..., None, :]))


def doc_packed(c):
    c.q, c.k, c.v = (c.t[n].transpose(1, 0, 2)[None] for n in "qkv")
    inv = inv_freq(c.dims["D"], 500000.0)
    q, k = turn(c.q, c.t["pos"][None], inv), turn(c.k, c.t["pos"][None], inv)
    same = c.t["doc"][:, None] == c.t["doc"][None, :]
    o, lse, seen = c.softmax(c.dots(q, k) * c.scale, (c.j <= c.row) & same)
    return o[0].transpose(1, 0, 2), lse, seen


def bigbird(c, block):
    n = np.kron(c.t["count"], np.ones((block, block), dtype=np.int64))[None]
    with np.errstate(divide="ignore"):
        return c.softmax(c.dots() * c.scale + np.log(n), n > 0)


def unnormalised(c, sigmoid):
    x = c.dots() * c.scale
    w = np.where(x > 0, x, 0)
    if sigmoid:
        w = np.exp(x) / (c.sk + np.exp(x))
    return np.einsum("bhij,bhjd->bhid", np.where(c.j <= c.row, w, 0), c.v), None, np.abs(x).max()


def pattern(c, rule):
    return c.softmax(c.dots() * c.scale, rule(c.row, c.j, **c.params))


def per_head(c):
    back, p = c.row - c.j, c.params
    even = np.arange(c.dims["H"])[:, None, None] % 2 == 0
    return c.softmax(c.dots() * c.scale, (back >= 0) & np.where(even, back % p["l"] == 0, back < p["W"]))


def inv_freq(d, theta, kind="default"):
    """Frequencies in f64, rounded to f32; the scaling rules of the rotary family."""
    n = np.arange(0, d, 2, dtype=np.float64)
    f = theta ** (-n / d)
    if kind == "pi":
        f = f / 4
    if kind == "yarn":
        edge = [d * math.log(64 / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (32, 1)]
        lo, hi = max(math.floor(edge[0]), 0), min(math.ceil(edge[1]), d - 1)
        ramp = np.clip((np.arange(d // 2) - lo) / (hi - lo if hi > lo else 0.001), 0, 1)
        f = f * (1 - ramp) + f / 8 * ramp
    if kind == "llama3":
        turns = 64 * f / (2 * math.pi)
        share = np.clip((turns - 1) / (4 - 1), 0, 1)
        f = share * f + (1 - share) * f / 8
    return f.astype(np.float32)


def turn(x, pos, inv, interleaved=False, factor=1.0):
    """Rotates the first 2 * len(inv) features of x [B, H, S, D]; the angle is one f32 product."""
    angle = (pos.astype(np.float32)[:, None, :, None] * inv).astype(np.float64)
    n = len(inv)
    first, second = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if interleaved else (slice(0, n), slice(n, 2 * n))
    y, z = x.copy(), np.exp(1j * angle) * (x[..., first] + 1j * x[..., second]) * factor
    y[..., first], y[..., second] = z.real, z.imag
    return y


def rope(c, kind="default", theta=10000.0, turned=None, interleaved=False, factor=1.0):
    pos = c.t.get("pos", np.arange(c.sq)[None])
    inv = inv_freq(turned or c.dims["D"], theta, kind)
    q, k = (turn(x, pos, inv, interleaved, factor) for x in (c.q, c.k))
    return c.softmax(c.dots(q, k) * c.scale, c.j <= c.row)


def lightning(tensors):
    """o and the last state of a decayed linear recurrence, step by step."""
    q, k, v = (tensors[n].astype(np.float64) for n in "qkv")
    decay = np.exp(-tensors["slope"].astype(np.float64))[None, :, None, None]
    state = tensors["s0"].astype(np.float64) if "s0" in tensors else np.zeros((*q.shape[:2], q.shape[3], v.shape[3]))
    rows = []
    for t in range(q.shape[2]):
        state = decay * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append(np.einsum("bhd,bhde->bhe", q[:, :, t], state))
    return {"o": np.stack(rows, 2), "s": state}


def check_recurrence(name, tensors, metadata):
    """Relative L2 per (b, h), and the largest error against the largest value: no absolute gate exists."""
    want, good, text = lightning(tensors), True, []
    for key in json.loads(metadata["outputs"]):
        error = tensors[key] - want[key]
        l2 = np.sqrt((error**2).sum((-1, -2)) / (want[key] ** 2).sum((-1, -2))).max()
        worst = np.abs(error).max() / np.abs(want[key]).max()
        good &= bool(l2 <= 5e-6 and worst <= 8 * 2.0**-23)
        text.append(f"{key} L2 {l2:.1e} max/max {worst:.1e}")
    print(f"{name:34} {'ok ' if good else 'BAD'} recurrence         {', '.join(text)}")
    return good


KERNELS = {
    "dense": lambda c: c.softmax(c.dots() * c.scale),
    "causal": causal,
    "causal_top_left": lambda c: c.softmax(c.dots() * c.scale, c.j <= c.row),
    "bool_mask": lambda c: c.softmax(c.dots() * c.scale, c.t["m"]),
    "score_bias": lambda c: c.softmax(c.dots() * c.scale + c.t["bias"]),
    "gqa_causal": causal,
    "gqa_chunk": causal,
    "gqa_interleaved": gqa_interleaved,
    "alibi": alibi,
    "alibi_slopes": lambda c: alibi(c, c.t["slope"]),
    "t5_decoder_self": lambda c: t5(c, False),
    "t5_encoder_self": lambda c: t5(c, True),
    "window_causal": window_causal,
    "window_both": window_both,
    "window_global": window_both,
    "swa_sinks": swa_sinks,
    "softcap_causal": softcap,
    "softcap_window": softcap,
    "prefix_lm": prefix_lm,
    "doc_causal": doc_causal,
    "doc_packed": doc_packed,
    "bigbird_plan": lambda c: bigbird(c, 64),
    "bigbird_plan_16": lambda c: bigbird(c, 16),
    "sigmoid_attn": lambda c: unnormalised(c, True),
    "relu_attn": lambda c: unnormalised(c, False),
    "dilated_both": lambda c: pattern(c, lambda i, j, w, s: (np.abs(i - j) <= w) & (i % s == j % s)),
    "strided": lambda c: pattern(c, lambda i, j, l: (i >= j) & ((i - j < l) | (i % l == j % l))),
    "fixed": lambda c: pattern(c, lambda i, j, l, c: (i >= j) & ((i // l == j // l) | (j % l >= l - c))),
    "chunked": lambda c: pattern(c, lambda i, j, C: (i >= j) & (j >= i - i % C)),
    "per_head": per_head,
    "rope_half": rope,
    "rope_interleaved": lambda c: rope(c, interleaved=True),
    "rope_partial": lambda c: rope(c, turned=32),
    "rope_pi": lambda c: rope(c, "pi"),
    "rope_yarn": lambda c: rope(c, "yarn", factor=0.1 * math.log(8) + 1),
    "rope_llama3": lambda c: rope(c, "llama3", theta=500000.0),
    "minilm": lambda c: c.softmax(c.dots() * c.scale, c.j < c.t["len"][:, None, None, None]),
}


def alibi_slopes(h):
    """Slopes of the ALiBi paper: a geometric series, and every second of the doubled one for what is left."""
    p = 1 << (h.bit_length() - 1)
    return [2.0 ** (-8 * (n + 1) / p) for n in range(p)] + [2.0 ** (-4 * (2 * n + 1) / p) for n in range(h - p)]


def check_table(name, tensors):
    """Tables from their formula; buckets must agree everywhere, slopes to f32 accuracy."""
    worst, wrong = 0.0, 0
    for key, value in tensors.items():
        part = key.split("_")
        if part[0] == "slopes":
            worst = max(worst, np.max(np.abs(value / np.array(alibi_slopes(int(part[1]))) - 1)))
            continue
        n, far = int(part[1]), int(part[2])
        if part[0] == "causal":
            want = np.array([bucket(r, n, far) for r in range(4097)])
        else:
            want = np.array([(n // 2 if d > 0 else 0) + bucket(abs(d), n // 2, far) for d in range(-4096, 4097)])
        wrong += int((want != value).sum())
        for at in np.flatnonzero(want != value)[:4]:
            print(f"  {key}[{at}]: package {value[at]}, exact {want[at]}")
    print(f"{name:34} table     largest relative error {worst:.1e}, integers that differ {wrong}")
    return worst < 2e-6 and wrong == 0


def check_made_twice(path, tensors, metadata):
    """A golden that two oracles agreed on when it was made: names, dims and specification fit together."""
    made, wrong = json.loads(metadata["provenance"]), []
    spec = ROOT / metadata["spec"]
    if not spec.is_file() or f" {metadata['kernel']}" not in spec.read_text():
        wrong.append(f"no kernel {metadata['kernel']} in {metadata['spec']}")
    named = json.loads(metadata["inputs"]) + json.loads(metadata["outputs"])
    named += [f"{key}.after" for key in json.loads(metadata.get("updated", "[]"))]
    wrong += [f"no tensor {key}" for key in named if key not in tensors]
    sizes = {n for x in tensors.values() for n in x.shape}
    free = {"Sk", "NQ", "NK"}  # of pages, and computed
    wrong += [f"no tensor has dim {key}" for key, n in json.loads(metadata["dims"]).items() if n not in sizes and key not in free]
    wrong += [f"{key} is not finite" for key, x in tensors.items() if x.dtype.kind == "f" and (np.isnan(x) | np.isposinf(x)).any()]
    print(f"{path.stem:34} {'BAD ' + '; '.join(wrong) if wrong else 'ok '} two oracles, {made['difference']:.1e}")
    return not wrong


def check_attention(name, tensors, metadata):
    """Every output of one file against the formula; True if within the file's tolerance class."""
    if metadata["kernel"] not in KERNELS:
        print(f"{name}: no formula here for kernel {metadata['kernel']}; add one to KERNELS")
        return False
    if not (ROOT / metadata["spec"]).is_file():
        print(f"{name}: specification {metadata['spec']} does not exist")
        return False
    o, lse, seen = KERNELS[metadata["kernel"]](Case(tensors, metadata))
    good, text = True, []
    for key in json.loads(metadata["outputs"]):
        got = tensors[key].astype(np.float64)
        atol, rtol, l2, lse_atol = GATES[metadata["dtype"] if key == "o_low" else "f32"]
        want = lse if key == "lse" else o
        if not (np.isneginf(got) == np.isneginf(want)).all():
            good, text = False, text + [f"{key} -inf at other places"]
            continue
        got, want = (x[np.isfinite(want)] for x in (got, want))
        error = np.abs(got - want).max(initial=0)
        if key == "lse":
            good &= bool(error <= lse_atol * max(1, seen / 4))
            text.append(f"lse {error:.1e}")
            continue
        rel = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-300)
        atol *= max(1, seen / 4) if key != "o_low" else 1
        good &= bool((np.abs(got - want) <= atol + rtol * np.abs(want)).all() and rel <= l2)
        text.append(f"{key} max {error:.1e} L2 {rel:.1e}")
    print(f"{name:34} {'ok ' if good else 'BAD'} max|score| {seen:6.2f}  {', '.join(text)}")
    return good


def main():
    """Checks all files; returns the exit code."""
    folder = ROOT / "tests" / "goldens"
    paths = sorted(folder.glob("*.safetensors"))
    good = bool(paths)
    for path in paths:
        tensors, metadata = read(path)
        if "second" in json.loads(metadata["provenance"]):
            good &= check_made_twice(path, tensors, metadata)
        elif metadata["kind"] == "table":
            good &= check_table(path.stem, tensors)
        elif metadata["kind"] == "recurrence":
            good &= check_recurrence(path.stem, tensors, metadata)
        else:
            good &= check_attention(path.stem, tensors, metadata)
    print(f"{len(paths)} files, {sum(p.stat().st_size for p in paths)} bytes: {'all within tolerance' if good else 'FAILED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
