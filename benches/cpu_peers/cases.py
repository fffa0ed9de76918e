"""The table of cases: what is computed at which sizes, and how attnc is called for it. Standard library only.

Every case has B = 1. Work is counted in useful FLOP: 4 * D for each visible pair of a query head and a key, masked pairs count
nothing. Bytes of a decode step are those of the cache, each key and value read once.
"""

import dataclasses
import fnmatch
from dataclasses import dataclass
from pathlib import Path

SPEC = Path(__file__).parent / "specs" / "peers.attn"
BYTES = dict(f32=4, bf16=2, f16=2, int8=1)
TOLERANCE = dict(f32=2e-3, f16=1e-2, bf16=5e-2, int8=5e-2)
"""Largest absolute error of an output at which a result counts as right; a wrong mask or scale errs by 0.1 to 3."""
BUCKETS, FAR = 32, 128
"""Rows of T5's table for each head, and the distance from which all share the last row."""


@dataclass(frozen=True)
class Case:
    """One row of the table; lengths in tokens."""

    id: str
    kind: str
    """causal, full, window, alibi, softcap, t5, documents, decode"""
    hq: int
    hkv: int
    sq: int
    sk: int
    d: int
    dtype: str = "f32"
    """Element type of q, k, v and o; int8 is a cache of bytes with scales beside q in f32."""
    window: int = 0
    """Keys that a query sees, its own among them; 0: all."""
    cap: float = 0.0
    """Scores s become cap * tanh(s / cap); 0: they do not."""
    documents: int = 0
    """Packed documents of equal length; 0: one."""
    lse: bool = False
    """The logarithm of the sum of weights is an output as well."""
    by_token: bool = False
    """Keys and values lie in memory as [Sk, Hkv, D], the heads of a token side by side; else as [Hkv, Sk, D]."""
    quick: bool = False
    """Measured with --quick."""

    @property
    def causal(self):
        """True if a query sees no later key. A decode step sees the whole cache."""
        return self.kind not in ("full", "decode")

    @property
    def scale(self):
        """Factor of the dot products: T5 has none."""
        return 1.0 if self.kind == "t5" else self.d**-0.5

    @property
    def pairs(self):
        """Visible pairs of a query row and a key, over all query heads."""
        n = self.sk // max(self.documents, 1)
        if self.kind in ("full", "decode"):
            rows = self.sq * self.sk
        elif self.window:
            rows = self.window * (self.window + 1) // 2 + (n - self.window) * self.window
        else:
            rows = max(self.documents, 1) * n * (n + 1) // 2
        return self.hq * rows

    @property
    def flop(self):
        """Useful floating point operations: two products, each of a multiplication and an addition."""
        return 4 * self.d * self.pairs

    @property
    def cache_bytes(self):
        """Bytes of k and v; of an int8 cache, with the f16 scale of each row."""
        row = self.d * BYTES[self.dtype] + (2 if self.dtype == "int8" else 0)
        return 2 * self.hkv * self.sk * row

    def spec(self):
        """How attnc is asked for it: kernel, dims for --at, values for --param, type for --dtype."""
        grouped = dict(B=1, Hq=self.hq, Hkv=self.hkv, Sq=self.sq, Sk=self.sk, D=self.d)
        plain = dict(B=1, H=self.hq, S=self.sq, D=self.d)
        if self.kind == "decode":
            kernel = "decode_int8" if self.dtype == "int8" else "causal" + ("_by_token" if self.by_token else "")
            return kernel, grouped, {}, "f32" if self.dtype == "int8" else self.dtype
        if self.kind in ("causal", "full", "window"):
            params = {"W": self.window} if self.window else {}
            return self.kind + ("_lse" if self.lse else ""), grouped, params, self.dtype
        return self.kind, plain, {"cap": self.cap} if self.cap else {}, self.dtype


def square(kind, n, d, h=8, hkv=None, **more):
    """A prefill case: n queries on n keys of d features, h query heads."""
    dtype = more.get("dtype", "f32")
    heads = f"-h{h}-{hkv}" if hkv else ""
    width = f"{more['window']}" if "window" in more else ""
    name = f"{kind}{width}{'-lse' if more.get('lse') else ''}-n{n}-d{d}{heads}{'' if dtype == 'f32' else '-' + dtype}"
    return Case(name, kind, h, hkv or h, n, n, d, **more)


def decode(kv, dtype, **more):
    """One query of 32 heads over a cache of kv keys of 8 heads, 128 features."""
    name = f"decode-kv{kv}-{dtype}{'-by-token' if more.get('by_token') else ''}"
    return Case(name, "decode", 32, 8, 1, kv, 128, dtype=dtype, **more)


CASES = [
    square("causal", 1024, 64),
    square("causal", 2048, 64, quick=True),
    square("causal", 4096, 64),
    square("causal", 1024, 128),
    square("causal", 2048, 128, quick=True),
    square("causal", 4096, 128),
    square("causal", 1024, 256),
    square("causal", 2048, 256),
    square("full", 2048, 64),
    square("full", 2048, 128),
    square("causal", 1024, 128, h=32, hkv=8),
    square("window", 4096, 64, window=256, quick=True),
    square("window", 8192, 64, window=256),
    square("alibi", 2048, 64, quick=True),
    square("softcap", 2048, 64, cap=50.0, quick=True),
    square("t5", 2048, 64),
    square("documents", 2048, 64, documents=8, quick=True),
    square("causal", 2048, 64, dtype="bf16"),
    square("causal", 2048, 128, dtype="bf16"),
    square("causal", 2048, 64, lse=True),
    decode(4096, "f32", quick=True),
    decode(16384, "f32"),
    decode(4096, "bf16"),
    decode(16384, "bf16"),
    decode(4096, "f16"),
    decode(16384, "f16"),
    decode(16384, "f32", by_token=True),
    decode(16384, "bf16", by_token=True),
    decode(4096, "int8"),
    decode(16384, "int8"),
]


def chosen(pattern=None, quick=False):
    """Cases whose name matches one of the globs in `pattern` (separated by commas); with `quick`, the few of --quick."""
    globs = (pattern or "*").split(",")
    found = [c for c in CASES if any(fnmatch.fnmatch(c.id, g) for g in globs)]
    return [c for c in found if c.quick or not quick or pattern]


def as_dict(case):
    """What workers and JSON files hold of a case."""
    return dataclasses.asdict(case)


def from_dict(fields):
    """The inverse of `as_dict`; fields that it does not know are left out."""
    known = {f.name for f in dataclasses.fields(Case)}
    return Case(**{k: v for k, v in fields.items() if k in known})
