"""Made-up tensors of a case, their files, the f64 reference, and errors against it. Runs inside the environment (numpy).

All arrays are [heads, rows, features], batch 1 left out. Values of q, k and v are normal, rounded to the type of the case, so
that every implementation starts from the same numbers; bf16 is held as f32 that happens to fit.
"""

import json
import math
from pathlib import Path

import numpy as np

from cases import BUCKETS, FAR

KINDS = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I8": np.int8}


def to_bf16_bits(x):
    """uint16 bits of f32 `x` rounded to bf16, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16_bits(bits):
    """f32 of the bits of bf16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(x, dtype):
    """f32 values that `dtype` holds exactly, nearest to `x`."""
    if dtype == "bf16":
        return from_bf16_bits(to_bf16_bits(x))
    return x.astype(np.float16).astype(np.float32) if dtype == "f16" else x


def buckets(n):
    """int32 [n]: row of T5's table for each distance 0..n."""
    half = BUCKETS // 2
    far = [min(BUCKETS - 1, half + math.floor(math.log(r / half) / math.log(FAR / half) * half)) for r in range(half, n)]
    return np.array([*range(min(half, n)), *far], np.int32)


def quantised(x):
    """(int8 rows, f16 scale of each row [heads, rows], f32 values they stand for)."""
    scale = (np.abs(x).max(-1) / 127).astype(np.float16)
    wide = scale.astype(np.float32)[..., None]
    stored = np.clip(np.rint(x / wide), -127, 127).astype(np.int8)
    return stored, scale, stored * wide


def make(case):
    """Tensors of a case by name: q, k, v, and what its scores and mask read (slope, rel, bucket, doc)."""
    rng = np.random.default_rng(7)
    shapes = dict(q=(case.hq, case.sq, case.d), k=(case.hkv, case.sk, case.d), v=(case.hkv, case.sk, case.d))
    t = {n: rounded(rng.standard_normal(s, np.float32), case.dtype) for n, s in shapes.items()}
    if case.dtype == "int8":
        for n in "kv":
            t[f"{n}_stored"], t[f"{n}_scale"], t[n] = quantised(t[n])
    if case.kind == "alibi":
        t["slope"] = (2.0 ** (-8.0 * np.arange(1, case.hq + 1) / case.hq)).astype(np.float32)
    if case.kind == "t5":
        t["rel"] = rng.standard_normal((case.hq, BUCKETS), np.float32)
        t["bucket"] = buckets(case.sk)
    if case.kind == "documents":
        t["doc"] = np.repeat(np.arange(case.documents, dtype=np.int32), case.sk // case.documents)
    return t


def bias(case, t, head, rows):
    """f64 [rows, Sk] added to the scores of a head: ALiBi, T5; None without either."""
    far = np.maximum(np.asarray(rows)[:, None] - np.arange(case.sk)[None, :], 0)
    if case.kind == "alibi":
        return -float(t["slope"][head]) * far.astype(np.float64)
    return t["rel"][head].astype(np.float64)[t["bucket"][far]] if case.kind == "t5" else None


def visible(case, t, rows):
    """bool [rows, Sk]: which keys each query sees; None where it is all of them."""
    if not case.causal:
        return None
    i, j = np.asarray(rows)[:, None], np.arange(case.sk)[None, :]
    seen = j <= i
    if case.window:
        seen &= j > i - case.window
    return seen & (t["doc"][i] == t["doc"][j]) if case.documents else seen


def reference(case, t, step=512):
    """f64 (o [Hq, Sq, D], lse [Hq, Sq]) by the definition, `step` rows at a time."""
    o, lse = np.empty((case.hq, case.sq, case.d)), np.empty((case.hq, case.sq))
    for low in range(0, case.sq, step):
        rows = range(low, min(low + step, case.sq))
        seen = visible(case, t, rows)
        for h in range(case.hq):
            kv = h // (case.hq // case.hkv)
            s = t["q"][h, low : rows.stop].astype(np.float64) @ t["k"][kv].astype(np.float64).T * case.scale
            if case.cap:
                s = case.cap * np.tanh(s / case.cap)
            added = bias(case, t, h, rows)
            s = s if added is None else s + added
            s = s if seen is None else np.where(seen, s, -np.inf)
            top = s.max(-1, keepdims=True)
            p = np.exp(s - top)
            total = p.sum(-1, keepdims=True)
            o[h, low : rows.stop] = (p / total) @ t["v"][kv].astype(np.float64)
            lse[h, low : rows.stop] = (top + np.log(total))[:, 0]
    return o, lse


def save_safetensors(path, arrays):
    """Writes {name: (dtype name of the format, array)}; an array of BF16 is uint16 bits."""
    header, at = {}, 0
    for name, (kind, x) in arrays.items():
        header[name] = dict(dtype=kind, shape=list(x.shape), data_offsets=[at, at + x.nbytes])
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, x in arrays.values():
            f.write(np.ascontiguousarray(x).tobytes())


def load_safetensors(path):
    """{name: array} of a file; BF16 and F16 become f32."""
    raw = Path(path).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    arrays = {}
    for name, meta in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        low, high = meta["data_offsets"]
        part = raw[start + low : start + high]
        if meta["dtype"] == "BF16":
            arrays[name] = from_bf16_bits(np.frombuffer(part, np.uint16)).reshape(meta["shape"])
        else:
            arrays[name] = np.frombuffer(part, KINDS[meta["dtype"]]).astype(np.float32).reshape(meta["shape"])
    return arrays


def ours(case, t):
    """What attnc binds, for `save_safetensors`, with the batch dim in front."""
    kind = dict(f32="F32", int8="F32", f16="F16", bf16="BF16")[case.dtype]
    cast = dict(F32=lambda x: x, F16=lambda x: x.astype(np.float16), BF16=to_bf16_bits)[kind]
    out = {n: (kind, cast(t[n])[None]) for n in "qkv"}
    if case.by_token:
        out.update({n: (kind, out[n][1].swapaxes(1, 2)) for n in "kv"})
    if case.dtype == "int8":
        for n in "kv":
            out[n], out[f"{n}_scale"] = ("I8", t[f"{n}_stored"][None]), ("F16", t[f"{n}_scale"][None])
        out["kv_len"] = ("I32", np.array([case.sk], np.int32))
    if case.kind == "documents":
        out["doc"] = ("I32", t["doc"][None])
    if case.kind == "t5":
        out["rel"] = ("F32", t["rel"])
    return out


def write(case, folder):
    """Makes tensors and reference and writes all of it to `folder`: *.npy, ours.safetensors."""
    t = make(case)
    folder.mkdir(parents=True, exist_ok=True)
    for name, x in t.items():
        np.save(folder / f"{name}.npy", x)
    save_safetensors(folder / "ours.safetensors", ours(case, t))
    o, lse = reference(case, t)
    np.save(folder / "reference_o.npy", o)
    np.save(folder / "reference_lse.npy", lse)


def read(folder):
    """Tensors that `write` has written, without the reference."""
    return {p.stem: np.load(p) for p in Path(folder).glob("*.npy") if not p.stem.startswith("reference")}


def error(case, folder, o, lse=None):
    """Largest absolute error of o, and of lse if there is one, against the reference; NaN and wrong shapes err by infinity."""
    worst = 0.0
    for name, x in (("o", o), ("lse", lse)):
        if x is None:
            continue
        wanted = np.load(Path(folder) / f"reference_{name}.npy")
        if x.size != wanted.size:
            return math.inf
        apart = float(np.abs(np.asarray(x, np.float64).reshape(wanted.shape) - wanted).max())
        worst = max(worst, apart if apart == apart else math.inf)
    return worst
