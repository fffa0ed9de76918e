"""Made-up tensors of the correctness checks, and files of them. Standard library only.

Comes in: a kernel's artifact, names, types and shapes of its inputs, a seed. Goes out: tensors as little-endian bytes, the same on every
host (Python's Mersenne Twister), and `.safetensors` files, which attnc and torch both read. What holds: floats are rounded to the type
that they have in the kernel; ints lie in what the kernel demands, else in what `gallery.py` says, else in 0..8.
"""

import array
import json
import math
import random
import struct

from expressions import Evaluator
from plan import values

SAFE = {"f32": "F32", "f16": "F16", "bf16": "BF16", "f64": "F64", "i8": "I8", "i32": "I32", "i64": "I64", "bit": "BOOL", "f8e4m3": "F8_E4M3"}


def bf16_bits(floats):
    """The nearest bf16 of each f32, ties to even, as an array of 16-bit words."""
    words = array.array("I", array.array("f", floats).tobytes())
    return array.array("H", [(w + 0x7FFF + (w >> 16 & 1)) >> 16 & 0xFFFF for w in words])


def encoded(dtype, numbers):
    """Bytes of numbers."""
    match dtype:
        case "bf16":
            return bf16_bits(numbers).tobytes()
        case "f16":
            return struct.pack(f"<{len(numbers)}e", *numbers)
    return array.array({"f32": "f", "f64": "d", "i8": "b", "i32": "i", "i64": "q", "bit": "B"}[dtype], numbers).tobytes()


def widened(dtype, data):
    """The same numbers as f32."""
    if dtype == "bf16":
        return array.array("I", [w << 16 for w in array.array("H", data)]).tobytes()
    if dtype == "f16":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data)).tobytes()
    return data


DRAWS = {
    "normal": lambda x, last: x,
    "row": lambda x, last: x / math.sqrt(max(last, 1)),
    "falling": lambda x, last: -abs(x),
    "rising": lambda x, last: abs(x),
    "share": lambda x, last: abs(x) / (1 + abs(x)),
    "scale": lambda x, last: 0.015 * abs(x),
}
"""What becomes of a normal number; `last` is the size of the last axis."""


class Maker:
    """Draws the tensors of one kernel at some sizes."""

    def __init__(self, artifact, dims, recipes, seed):
        self.artifact, self.dims, self.recipes, self.seed = artifact, dims, recipes, seed
        self.worth = Evaluator(artifact.nodes, values(artifact, dims, {})[0])
        self.specs = {t.name: (n, t) for n, t in enumerate(artifact.tensors)}

    def tensor(self, name, dtype, shape):
        """Bytes of one."""
        draw = random.Random(f"{self.seed} {self.artifact.name} {name}")
        n = math.prod(shape)
        recipe = self.recipes.get(name)
        if dtype in ("i8", "i32", "i64"):
            return encoded(dtype, self.ints(name, recipe, shape, n, draw))
        if dtype == "bit":
            return encoded(dtype, [draw.random() < 0.5 for _ in range(n)])
        f, last = DRAWS[recipe or "normal"], shape[-1] if shape else 1
        return encoded(dtype, [f(draw.gauss(0, 1), last) for _ in range(n)])

    def ints(self, name, recipe, shape, n, draw):
        """What is demanded, else the recipe (least, one past the most; or a list), else 0..8; sorted where that is promised."""
        at, spec = self.specs[name]
        for demand in self.artifact.demands:
            if demand.kind == "within" and demand.tensor == at:
                lo, hi = self.worth(demand.lo[0]), self.worth(demand.hi[0])
                hi = max(lo, min(hi, self.dims.get("Sk", hi)))
                return [hi if k == 0 else draw.randint(lo, hi) for k in range(n)]
            if demand.kind == "pages" and demand.table == at:
                pages = list(range(self.worth(self.artifact.tensors[demand.pool].shape[0])))
                draw.shuffle(pages)
                return [pages[k % len(pages)] for k in range(n)]
        if isinstance(recipe, list):
            return [self.size(x) for x in recipe]
        least, past = (self.size(x) for x in recipe or (0, 8))
        drawn = [draw.randrange(least, past) for _ in range(n)]
        if spec.order:
            row = shape[-1]
            drawn = [x for k in range(0, n, row) for x in sorted(drawn[k : k + row])]
        return drawn

    def size(self, x):
        """A number, or one by the name of a dim."""
        return self.dims[x] if isinstance(x, str) else x


def write(path, tensors):
    """A `.safetensors` file of (name, dtype, shape, bytes)."""
    head, at = {}, 0
    for name, dtype, shape, data in tensors:
        head[name] = {"dtype": SAFE[dtype], "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors))


def read(data):
    """{name: (dtype, shape, bytes)} of such a file's bytes."""
    length = struct.unpack("<Q", data[:8])[0]
    head, names = json.loads(data[8 : 8 + length]), {v: k for k, v in SAFE.items()}
    out = {}
    for name, field in head.items():
        if name != "__metadata__":
            lo, hi = field["data_offsets"]
            out[name] = (names[field["dtype"]], field["shape"], data[8 + length + lo : 8 + length + hi])
    return out
