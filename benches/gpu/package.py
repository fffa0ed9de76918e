"""Reads a kernel package (`attnc build -o kernel.attnk`). Standard library only.

Comes in: a file. Goes out: the fields of `compiler/src/artifact.rs`, under their names there. What holds: magic, version and length
are right and everything was read. Not checked: the hash, which is BLAKE3 (Python has none). The version stands in
`runtime/src/package.rs` and changes with the artifact's fields; then this file changes too, and `tests/gpu_kit.rs` says so.
"""

import struct
from types import SimpleNamespace as Record

from postcard import Malformed, Reader

MAGIC, VERSION, HEAD = b"attnc\0pk", 5, 8 + 4 + 8 + 32

TYPES = ["bool", "int", "float"]
UNARY = ["neg", "not", "abs", "floor", "ceil", "sqrt", "rsqrt", "exp", "exp2", "log", "log2", "tanh", "sigmoid", "sin", "cos"]
UNARY += ["to_float", "to_int", "round32"]
BINARY = ["add", "sub", "mul", "div", "idiv", "mod", "min", "max", "pow", "lt", "le", "eq", "ne", "and", "or"]
OPS = ["int", "float", "bool", "var", "load", "unary", "binary", "select", "rand_block", "rand_block_except"]
DTYPES = ["f32", "f16", "bf16", "f64", "i8", "i32", "i64", "bit", "f8e4m3"]
ROLES = ["input", "output", "updated", "table", "workspace"]


def read(path):
    """The artifact in a file. Errors: `Malformed`."""
    data = path.read_bytes()
    if data[:8] != MAGIC:
        raise Malformed(f"{path} is no package of a kernel")
    version, length = struct.unpack("<IQ", data[8:20])
    if version != VERSION:
        raise Malformed(f"{path} has format {version}, this kit reads {VERSION}: see benches/gpu/package.py")
    if len(data) - HEAD != length:
        raise Malformed(f"{path} holds {len(data) - HEAD} bytes after its head, the head says {length}")
    return artifact(Reader(data[HEAD:]))


def artifact(r):
    """`Artifact`"""
    a = Record(name=r.text(), target=r.text())
    a.nodes = r.list(lambda: (node(r), r.variant(TYPES))[0])
    a.vars = r.list(lambda: Record(name=r.text(), ty=r.variant(TYPES)))
    a.scalars = r.list(lambda: scalar(r))
    a.tensors = r.list(lambda: tensor(r))
    a.requires = r.list(lambda: Record(cond=r.unsigned(), message=r.text()))
    a.checks = r.list(lambda: check(r))
    a.demands = r.list(lambda: demand(r))
    a.check_vars = r.list(lambda: (r.unsigned(), r.unsigned(), r.unsigned()))
    a.launches = r.list(lambda: launch(r))
    a.code, a.schedule = r.bytes(), r.text()
    r.end()
    return a


def node(r):
    """`Op`: a tuple of its name and operands."""
    op = r.variant(OPS)
    n = r.unsigned
    match op:
        case "int":
            return op, r.signed()
        case "float":
            return op, struct.unpack("<d", struct.pack("<Q", n()))[0]
        case "bool":
            return op, r.bool()
        case "var":
            return op, n()
        case "load":
            return op, n(), r.list(n), r.variant(TYPES)
        case "unary":
            return op, r.variant(UNARY), n()
        case "binary":
            return op, r.variant(BINARY), n(), n()
        case "select":
            return op, n(), n(), n()
        case "rand_block":
            return op, [n() for _ in range(6)]
        case _:
            return op, [n() for _ in range(7)]


def value(r):
    """`Value`"""
    return {"bool": r.bool, "int": r.signed, "float": r.float}[r.variant(TYPES)]()


def scalar(r):
    """`ScalarSpec`"""
    return Record(name=r.text(), var=r.unsigned(), is_dim=r.bool(), default=r.option(lambda: value(r)), wide=r.bool())


def tensor(r):
    """`TensorSpec`; a table has `vars`, `origin` and `value` too."""
    t = Record(name=r.text(), role=r.variant(ROLES))
    if t.role == "table":
        t.vars, t.origin, t.value = r.list(r.unsigned), r.list(r.unsigned), r.unsigned()
    t.dtype, t.shape, t.layout, t.order = r.variant(DTYPES), r.list(r.unsigned), r.list(r.unsigned), r.byte()
    return t


def check(r):
    """`BindCheck`"""
    if r.variant(["index", "divisor"]) == "index":
        return Record(tensor=r.unsigned(), dim=r.unsigned(), index=r.unsigned(), text=r.text())
    return Record(divisor=r.unsigned(), text=r.text())


def demand(r):
    """`ContentDemand`"""
    bound = lambda: (r.unsigned(), r.text())
    if r.variant(["within", "pages"]) == "within":
        return Record(kind="within", tensor=r.unsigned(), lo=bound(), hi=bound())
    d = Record(kind="pages", table=r.unsigned(), len=r.unsigned(), size=r.signed(), pool=r.unsigned())
    d.written = r.option(r.unsigned)
    return d


def launch(r):
    """`LaunchSpec`"""
    one = Record(name=r.text(), grid=r.list(r.unsigned), scratch_bytes=r.unsigned(), entry=r.unsigned())
    one.device = r.option(lambda: device(r))
    return one


def device(r):
    """`DeviceLaunch`"""
    one = Record(kernel=r.text(), threads=r.unsigned(), shared_bytes=r.unsigned(), words=r.list(r.unsigned))
    one.persistent = r.bool()
    one.mapped = r.option(lambda: Record(launch=device(r), maps=r.list(lambda: tensor_map(r))))
    return one


def tensor_map(r):
    """`TensorMapSpec`"""
    n = r.unsigned
    return Record(tensor=n(), row_dim=n(), col_dim=n(), box_rows=n(), box_cols=n())
