"""An artifact written down by hand, as postcard writes it, and a driver that records. Standard library only."""

import ctypes
import struct
from pathlib import Path

import package


class Writer:
    """Postcard, the other way round."""

    def __init__(self):
        self.out = bytearray()

    def u(self, x):
        """Unsigned."""
        while x > 0x7F:
            self.out.append(x & 0x7F | 0x80)
            x >>= 7
        self.out.append(x)
        return self

    def i(self, x):
        """Signed."""
        return self.u((x << 1) ^ (x >> 63) if x >= 0 else ((-x - 1) << 1) | 1)

    def s(self, text):
        """String or bytes."""
        data = text.encode() if isinstance(text, str) else text
        self.u(len(data)).out.extend(data)
        return self

    def b(self, *values):
        """Bytes as they are: truth values, `u8`, tags."""
        self.out.extend(values)
        return self

    def many(self, items, write):
        """A sequence."""
        self.u(len(items))
        for item in items:
            write(item)
        return self


NODES = [
    ("var", 0),  # 0: B
    ("var", 1),  # 1: S
    ("int", 64),  # 2
    ("int", 63),  # 3
    ("binary", "add", 1, 3),  # 4: S + 63
    ("binary", "idiv", 4, 2),  # 5: (S + 63) div 64
    ("int", 0),  # 6
    ("binary", "mul", 0, 1),  # 7: B * S
    ("var", 2),  # 8: x, of a table
    ("unary", "to_float", 8),  # 9
    ("float", 0.5),  # 10
    ("binary", "mul", 9, 10),  # 11: x / 2
    ("binary", "le", 6, 1),  # 12: 0 <= S
    ("int", -3),  # 13
]


def encode_node(w, node):
    """`(Op, Ty)`"""
    op, *x = node
    w.u(package.OPS.index(op))
    if op == "int":
        w.i(x[0])
    elif op == "float":
        w.u(struct.unpack("<Q", struct.pack("<d", x[0]))[0])
    elif op == "var":
        w.u(x[0])
    elif op == "unary":
        w.u(package.UNARY.index(x[0])).u(x[1])
    else:
        w.u(package.BINARY.index(x[0])).u(x[1]).u(x[2])
    w.u(1)


def tensor(w, name, role, dtype, shape, layout=None, order=0, table=None):
    """`TensorSpec`"""
    w.s(name).u(package.ROLES.index(role))
    if table:
        variables, origin, value = table
        w.many(variables, w.u).many(origin, w.u).u(value)
    w.u(package.DTYPES.index(dtype)).many(shape, w.u).many(layout or list(range(len(shape))), w.u).b(order)


def device(w, kernel, threads, shared, words, maps=None, persistent=0):
    """`DeviceLaunch`; `maps` are those of its other form, which is persistent, has a warpgroup more and the counter for its first word."""
    w.s(kernel).u(threads).u(shared).many(words, w.u).b(persistent)
    if maps is None:
        w.b(0)
        return
    w.b(1)
    device(w, f"{kernel}_mapped", threads + 128, 300, [0, *words[1:]], persistent=1)
    w.many(maps, lambda fields: [w.u(x) for x in fields])


def payload(maps=None):
    """One kernel: q [B, S, 64] bound as (S, B, 64), a table of halves from -3, an empty workspace, two launches and one of no blocks.
    `maps` makes the first launch one of two forms: (tensor, row dim, column dim, rows, columns of a box) for each map."""
    w = Writer()
    w.s("sample").s("sm_80")
    w.many(NODES, lambda n: encode_node(w, n))
    w.many([("B", 1), ("S", 1), ("x", 1), ("W", 1), ("cap", 2)], lambda v: w.s(v[0]).u(v[1]))
    w.u(4)
    w.s("B").u(0).b(1, 0, 0)
    w.s("S").u(1).b(1, 0, 0)
    w.s("W").u(3).b(0, 1).u(1).i(-7).b(0)
    w.s("cap").u(4).b(0, 1).u(2)
    w.out.extend(struct.pack("<d", 1.5))
    w.b(0)
    w.u(5)
    tensor(w, "q", "input", "bf16", [0, 1, 2], layout=[1, 0, 2])
    tensor(w, "o", "output", "f32", [0, 1])
    tensor(w, "halves", "table", "f32", [1], table=([2], [13], 11))
    tensor(w, "scratch", "workspace", "f32", [6, 1])
    tensor(w, "doc", "input", "i32", [1], order=1)
    w.many([12], lambda c: w.u(c).s("S is negative"))
    w.u(1).u(1).u(2).s("x div y")
    w.u(1).u(0).u(4).u(6).s("0").u(2).s("64")
    w.u(0)
    w.u(3)
    for name, grid, words in (("first", [0, 5], [1, 2, 3, 7, 5, 6, 4]), ("none", [6], [1]), ("second", [7], [8, 13, 16, 19, 23, 24, 25, 26])):
        w.s(name).many(grid, w.u).u(0).u(0).b(1)
        device(w, f"attn_{name}", 128, 1024 if name == "first" else 0, words, maps if name == "first" else None)
    w.s(b"// PTX").s("as it comes")
    return bytes(w.out)


def file(folder, body=None, version=package.VERSION):
    """A package in a file."""
    body = payload() if body is None else body
    path = Path(folder) / "sample.attnk"
    path.write_bytes(package.MAGIC + struct.pack("<IQ", version, len(body)) + bytes(32) + body)
    return path


class FakeDriver:
    """Behaves as libcuda does, and remembers; `fail` names a call and its result. It has 3 multiprocessors; `fits` blocks fit each."""

    fits = 1

    def __init__(self, fail=None, log=b"ptxas info: 3 registers"):
        self.calls, self.fail, self.log, self.names, self.maps = [], fail or {}, log, {}, []

    def cuGetErrorName(self, result, name):
        name._obj.value = b"CUDA_ERROR_%d" % result
        return 0

    def cuModuleLoadDataEx(self, module, image, n, options, values):
        sizes = {options[k]: values[k] for k in range(n)}
        where = 5 if "cuModuleLoadDataEx" in self.fail else 3
        ctypes.memmove(sizes[where], self.log, min(len(self.log) + 1, sizes[where + 1]))
        module._obj.value = 77
        self.calls.append(("load", image.value))
        return self.fail.get("cuModuleLoadDataEx", 0)

    def cuModuleGetFunction(self, function, module, name):
        function._obj.value = 1000 + len(self.names)
        self.names[function._obj.value] = name.decode()
        return self.fail.get("cuModuleGetFunction", 0)

    def cuFuncSetAttribute(self, function, which, value):
        self.calls.append(("attribute", self.names[function.value], which, value))
        return self.fail.get("cuFuncSetAttribute", 0)

    def cuFuncGetAttribute(self, value, which, function):
        value._obj.value = {4: 168, 3: 0}[which]
        return 0

    def cuTensorMapEncodeTiled(self, place, dtype, rank, address, dims, strides, box, steps, *how):
        """Writes a byte of its own to all of the 128 that must be there."""
        assert place.value % 64 == 0 and (len(dims), len(strides), len(box)) == (rank, rank - 1, rank) and list(steps) == [1] * rank
        assert [x._type_ for x in (dims, strides, box, steps)] == [ctypes.c_uint64] * 2 + [ctypes.c_uint32] * 2
        self.maps.append(place.value)
        ctypes.memset(place.value, len(self.maps), 128)
        self.calls.append(("map", dtype, address.value, list(dims), list(strides), list(box), how))
        return self.fail.get("cuTensorMapEncodeTiled", 0)

    def cuCtxGetDevice(self, device):
        device._obj.value = 5
        return 0

    def cuDeviceGetAttribute(self, count, which, device):
        assert (which, device.value) == (16, 5)
        count._obj.value = 3
        return 0

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, blocks, function, threads, shared):
        self.calls.append(("fit", self.names[function.value], threads, shared.value))
        blocks._obj.value = self.fits
        return self.fail.get("cuOccupancyMaxActiveBlocksPerMultiprocessor", 0)

    def parameter(self, p):
        """A word, or the bytes of a map."""
        if p in self.maps:
            return ctypes.string_at(p, 128)
        return ctypes.cast(p, ctypes.POINTER(ctypes.c_uint64)).contents.value

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, argv, extra):
        assert (gy, gz, by, bz, extra) == (1, 1, 1, 1, None)
        words = [self.parameter(p) for p in argv]
        self.calls.append(("launch", self.names[function.value], gx, bx, shared, stream.value, words))
        return self.fail.get("cuLaunchKernel", 0)
