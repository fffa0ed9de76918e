"""What is measured: the shapes of gpu.md, 1.1 to 1.4. Standard library only.

Work is counted as FlashAttention's papers do: 4 D for each pair of a query head and a key, half of them for causal; of windows and
documents the visible pairs. Decoding counts bytes: k and v once, q and o.
"""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One row of the table."""

    id: str
    kind: str
    """A kernel of specs/bench.attn."""
    b: int
    hq: int
    hkv: int
    sq: int
    sk: int
    d: int
    window: int = 0
    cap: float = 0.0
    documents: int = 0
    """Packed documents of equal length."""
    quick: bool = False
    flex: bool = False
    """FlexAttention takes part: it compiles for seconds at every shape."""
    first: int = 2
    """What is measured first, where time is short: 0 before 1 before 2."""
    dtype: str = "bf16"

    @property
    def causal(self):
        """A query sees no later key."""
        return self.kind != "full"

    @property
    def pairs(self):
        """Pairs of a query row and a key, over all heads and sequences."""
        if self.kind in ("full", "decode"):
            rows = self.sq * self.sk
        elif self.window:
            w = min(self.window, self.sk)
            rows = w * (w + 1) // 2 + (self.sk - w) * w
        else:
            rows = self.sq * self.sk / 2 / max(self.documents, 1)
        return self.b * self.hq * rows

    @property
    def flop(self):
        """Two products, each of a multiplication and an addition."""
        return 4 * self.d * self.pairs

    @property
    def bytes(self):
        """Of k, v, q and o, each once."""
        return 2 * self.d * self.b * (2 * self.hkv * self.sk + 2 * self.hq * self.sq)

    @property
    def dims(self):
        """For attnc."""
        if self.kind == "documents":
            return dict(B=self.b, Hq=self.hq, Hkv=self.hkv, S=self.sk, D=self.d)
        return dict(B=self.b, Hq=self.hq, Hkv=self.hkv, Sq=self.sq, Sk=self.sk, D=self.d)

    @property
    def params(self):
        """For attnc."""
        return {"W": self.window} if self.window else {"cap": self.cap} if self.cap else {}

    def as_dict(self):
        """For the manifest."""
        return dict(dataclasses.asdict(self), causal=self.causal, flop=self.flop, bytes=self.bytes)


def named(name, kind, b, heads, s, d, **more):
    """A square shape; heads are one number or (query heads, key heads)."""
    hq, hkv = heads if isinstance(heads, tuple) else (heads, heads)
    return Shape(f"{name}-d{d}-s{s}", kind, b, hq, hkv, s, s, d, **more)


def decode(b, sq, kv, **more):
    """64 query heads on 8 key heads of 128 features."""
    return Shape(f"decode-q{sq}-b{b}-kv{kv}", "decode", b, 64, 8, sq, kv, 128, **more)


def shapes():
    """The table, most telling rows first."""
    out = []
    for d in (128, 64, 256):
        for kind in ("full", "causal"):
            for s in (512, 1024, 2048, 4096, 8192, 16384):
                main = s == 8192
                flex = d != 256 and s in (2048, 8192)
                rank = 0 if main and d == 128 else 1 if main or s == 2048 else 2
                quick = main and d in (64, 128)
                out.append(named(kind, kind, 16384 // s, 2048 // d, s, d, quick=quick, flex=flex, first=rank))
    for kind in ("causal", "full"):
        for s in (2048, 4096, 8192, 16384):
            main = s == 8192
            out.append(named(f"gqa64-8-{kind}", kind, 2, (64, 8), s, 128, flex=main, quick=main and kind == "causal", first=0 if main else 2))
    out.append(named("gqa32-2-causal", "causal", 1, (32, 2), 8192, 256, first=1))
    for w, s, quick in ((128, 8192, True), (1024, 8192, False), (4096, 16384, False)):
        out.append(named(f"window{w}", "window", 1, 64, s, 64, window=w, flex=True, quick=quick, first=0))
    out.append(named("window1024", "window", 2, 16, 8192, 128, window=1024, flex=True, first=1))
    for n in (8, 32):
        out.append(named(f"documents{n}", "documents", 1, 16, 16384, 128, documents=n, flex=True, quick=n == 8, first=0 if n == 8 else 1))
    out.append(named("softcap", "softcap", 2, 16, 8192, 128, cap=50.0, flex=True, quick=True, first=0))
    out.append(named("softcap", "softcap", 4, 16, 2048, 128, cap=50.0, flex=True, first=1))
    out.append(named("alibi", "alibi", 2, 16, 8192, 128, flex=True, first=0))
    for b in (1, 8, 32):
        out.append(decode(b, 1, 8192, flex=b == 32, quick=b == 32, first=0))
    out.append(decode(32, 8, 8192, quick=True, first=0))
    out.append(decode(8, 8, 8192, first=1))
    out.append(decode(1, 1, 32768, first=1))
    return sorted(out, key=lambda s: s.first)
