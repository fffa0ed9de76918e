"""From an artifact and sizes to a launch plan: all numbers that a launch needs but addresses. Standard library only.

Comes in: an artifact for a GPU, a size for every dim, values of parameters that are not the defaults. Goes out: a plan, a dict that JSON
holds, and the bytes of tables. What holds: words are what `runtime/src/bind/args.rs` and `runtime/src/device/seam.rs` write for
contiguous tensors. The kit checks nothing else that a bind checks: `attnc run` has bound the same tensors when the kit was built.

    {"kernel": name, "target": "sm_90a", "schedule": words,
     "scalars": {name: value},
     "tensors": [{"name", "role", "dtype", "shape": as bound, "strides": as bound, "expressions": of logical dims, "bytes"}],
     "launches": [{"name", "grid", "tasks", "kernel", "threads", "shared_bytes", "persistent",
                   "words": [int, or [tensor number] or ["counter"] for an address]}]}

A launch that has a form with tensor maps says too which form is taken if addresses allow it, and why not the one with maps:

    "form": "general" or "mapped", "form_reason": words or null,
    "mapped": {"kernel", "threads", "shared_bytes", "words",
               "maps": [{"tensor": number, "name", "dtype", and where there can be a map "dims", "strides": in bytes, "box"}]}
"""

import math
import struct
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "kit"))

import maps
from expressions import Evaluator, round32

SIZE = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "i8": 1, "i32": 4, "i64": 8, "bit": 1, "f8e4m3": 1}
MAX_BLOCKS = (1 << 31) - 1


class Refused(Exception):
    """The sizes do not suit the kernel."""


def values(artifact, dims, params):
    """A value for each variable, with what scalars are."""
    out, scalars = [0] * len(artifact.vars), {}
    for s in artifact.scalars:
        given = dims.get(s.name) if s.is_dim else params.get(s.name, s.default)
        if given is None:
            raise Refused(f"{'dim' if s.is_dim else 'parameter'} `{s.name}` has no value")
        ty = artifact.vars[s.var].ty
        given = {"int": int, "bool": bool, "float": lambda x: round32(float(x))}[ty](given)
        out[s.var] = scalars[s.name] = given
    return out, scalars


def word_of(value):
    """The word of a scalar: an int, the bits of an f32, or 0 and 1."""
    if type(value) is float:
        return struct.unpack("<I", struct.pack("<f", value))[0]
    return int(value) % (1 << 64)


def contiguous(shape):
    """Strides of a contiguous tensor, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return strides


def laid_out(spec, logical):
    """Shape and strides as bound, and strides in the order of logical dims."""
    if spec.role in ("table", "workspace"):
        return logical, contiguous(logical), contiguous(logical)
    shape = [logical[d] for d in spec.layout]
    strides = contiguous(shape)
    return shape, strides, [strides[spec.layout.index(d)] for d in range(len(logical))]


def plan(artifact, dims, params=None):
    """The plan at these sizes. Errors: `Refused`."""
    known, scalars = values(artifact, dims, params or {})
    worth = Evaluator(artifact.nodes, known)
    for r in artifact.requires:
        if not worth(r.cond):
            raise Refused(r.message)
    words, tensors, logicals = [["counter"]], [], []
    for n, spec in enumerate(artifact.tensors):
        logical = [worth(s) for s in spec.shape]
        if any(size < 0 for size in logical):
            raise Refused(f"`{spec.name}` would be {logical}")
        shape, strides, by_dim = laid_out(spec, logical)
        # As in the runtime: a tensor without elements is read at its first place, whatever the indices.
        words += [[n], *logical, *(by_dim if math.prod(logical) else [0] * len(logical))]
        entry = {"name": spec.name, "role": spec.role, "dtype": spec.dtype, "shape": shape, "strides": strides}
        entry["expressions"] = [worth.text(s, artifact.vars) for s in spec.shape]
        entry["bytes"] = math.prod(shape) * SIZE[spec.dtype]
        tensors.append(entry)
        logicals.append((spec.name, spec.dtype, logical, by_dim))
    words += [word_of(known[s.var]) for s in artifact.scalars]
    launches = [launch(one, worth, words, logicals) for one in artifact.launches]
    fields = {"kernel": artifact.name, "target": artifact.target, "schedule": artifact.schedule, "scalars": scalars}
    return {**fields, "tensors": tensors, "launches": launches}


def launch(one, worth, words, tensors):
    """One launch with its words; `tensors` has (name, type, sizes, strides) of logical dims."""
    if one.device is None:
        raise Refused(f"launch `{one.name}` is for a CPU")
    extents = [worth(e) for e in one.grid]
    tasks = 0 if any(e <= 0 for e in extents) else math.prod(extents)
    if tasks > MAX_BLOCKS:
        raise Refused(f"launch `{one.name}` has {tasks} tasks")
    fields = {"name": one.name, "grid": extents, "tasks": tasks, **device(one.device, words)}
    if one.device.mapped is None:
        return fields
    made, reasons = [], []
    for m in one.device.mapped.maps:
        if m.tensor >= len(tensors):
            reasons.append(f"there is no tensor {m.tensor}")
            continue
        name, dtype, sizes, strides = tensors[m.tensor]
        entry = {"tensor": m.tensor, "name": name, "dtype": dtype}
        try:
            entry |= maps.described(dtype, sizes, strides, m.row_dim, m.col_dim, m.box_rows, m.box_cols)
        except maps.Unmapped as err:
            reasons.append(f"`{name}`: {err}")
        made.append(entry)
    fields |= {"form": "general" if reasons else "mapped", "form_reason": reasons[0] if reasons else None}
    return {**fields, "mapped": {**device(one.device.mapped.launch, words), "maps": made}}


def taken(launch):
    """The form of a launch of a plan that attnc's runtime takes where addresses allow it."""
    return launch["mapped"] if maps.two_forms(launch) else launch


def device(one, words):
    """What a form of a launch has of its own."""
    shape = {"kernel": one.kernel, "threads": one.threads, "shared_bytes": one.shared_bytes, "persistent": one.persistent}
    return {**shape, "words": [words[w] for w in one.words]}


def tables(artifact, dims, params=None):
    """The bytes of each table, by name."""
    known, _ = values(artifact, dims, params or {})
    return {t.name: table(artifact, t, list(known)) for t in artifact.tensors if t.role == "table"}


def table(artifact, spec, known):
    """Every entry, in the order of memory; `known` is written to."""
    worth = Evaluator(artifact.nodes, known)
    sizes = [worth(s) for s in spec.shape]
    first = [worth(o) for o in spec.origin]
    out, index = bytearray(), [0] * len(sizes)
    for _ in range(math.prod(sizes)):
        for v, start, at in zip(spec.vars, first, index):
            known[v] = start + at
        out += stored(spec.dtype, worth(spec.value))
        for d in reversed(range(len(sizes))):
            index[d] += 1
            if index[d] < sizes[d]:
                break
            index[d] = 0
    return bytes(out)


def stored(dtype, x):
    """The bytes of an entry. Errors: an int that does not fit."""
    match dtype:
        case "f32":
            return struct.pack("<f", round32(x))
        case "f64":
            return struct.pack("<d", x)
        case "f16":
            return half(x)
        case "i8" | "i32" | "i64":
            try:
                return struct.pack({"i8": "<b", "i32": "<i", "i64": "<q"}[dtype], x)
            except struct.error as err:
                raise Refused(f"{x} does not fit {dtype}") from err
        case "bit":
            return bytes([bool(x)])
    raise Refused(f"tables of {dtype} are not made here")


def half(x):
    """The nearest f16; infinite where it is too large."""
    try:
        return struct.pack("<e", x)
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, x))
