"""ggml's ggml_flash_attn_ext (the attention of llama.cpp), called through ctypes. environment.py builds the library."""

import ctypes as c
import os
from pathlib import Path

import numpy as np

import tensors as made
from peers.base import NATIVE, WORKAROUND, Call, No, Peer
from peers.dense import added

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
"""Numbers of enum ggml_type."""
CACHE = dict(f32=F32, f16=F16, bf16=BF16, int8=Q8_0)


class Init(c.Structure):
    """ggml_init_params"""

    _fields_ = [("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool)]


class Plan(c.Structure):
    """ggml_cplan, with room behind what this version has."""

    _fields_ = [("work_size", c.c_size_t), ("work_data", c.c_void_p), ("n_threads", c.c_int), ("pool", c.c_void_p)]
    _fields_ += [("abort", c.c_void_p), ("abort_data", c.c_void_p), ("use_ref", c.c_bool)]


def library():
    """The shared libraries with the signatures that are used."""
    folder = Path(os.environ["ATTNC_PEERS_GGML"])
    base, cpu = (c.CDLL(str(next(folder.rglob(f"libggml-{n}.so"))), mode=c.RTLD_GLOBAL) for n in ("base", "cpu"))
    p, i64 = c.c_void_p, c.c_int64
    for lib, name, result, given in [
        (base, "ggml_init", p, [Init]), (base, "ggml_free", None, [p]), (base, "ggml_version", c.c_char_p, []),
        (base, "ggml_new_tensor_4d", p, [p, c.c_int, i64, i64, i64, i64]), (base, "ggml_get_data", p, [p]),
        (base, "ggml_nbytes", c.c_size_t, [p]), (base, "ggml_new_graph", p, [p]),
        (base, "ggml_flash_attn_ext", p, [p, p, p, p, p, c.c_float, c.c_float, c.c_float]),
        (base, "ggml_build_forward_expand", None, [p, p]),
        (base, "ggml_quantize_chunk", c.c_size_t, [c.c_int, p, p, i64, i64, i64, p]),
        (cpu, "ggml_cpu_init", None, []), (cpu, "ggml_graph_plan", Plan, [p, c.c_int, p]),
        (cpu, "ggml_graph_compute", c.c_int, [p, c.POINTER(Plan)]),
    ]:
        f = getattr(lib, name)
        f.restype, f.argtypes = result, given
    cpu.ggml_cpu_init()
    return base, cpu


BASE, CPU = library()


class Graph:
    """A graph of one attention node; memory is freed with the object."""

    def __init__(self, case, t, kind, threads):
        self.case = case
        size = (case.sk * case.d * case.hkv * 8) + (case.sq * case.d * case.hq * 8) + (1 << 24)
        mask = self.mask(t)
        self.context = BASE.ggml_init(Init(size + (0 if mask is None else mask.nbytes), None, False))
        q = self.tensor(F32, t["q"])
        k, v = (self.tensor(kind, t[n]) for n in "kv")
        m = None if mask is None else self.tensor(F16, mask)
        steepest = 8.0 if case.kind == "alibi" else 0.0
        self.out = BASE.ggml_flash_attn_ext(self.context, q, k, v, m, case.scale, steepest, case.cap)
        self.graph = BASE.ggml_new_graph(self.context)
        BASE.ggml_build_forward_expand(self.graph, self.out)
        self.plan = CPU.ggml_graph_plan(self.graph, threads, None)
        self.work = (c.c_uint8 * max(self.plan.work_size, 1))()
        self.plan.work_data = c.addressof(self.work)

    def mask(self, t):
        """f16 [heads or 1, Sq, Sk]: what the operator adds to scores; under ALiBi it is the distance, times ggml's own slopes."""
        case = self.case
        if not case.causal:
            return None
        if case.kind == "alibi":
            far = np.arange(case.sk)[None, :] - np.arange(case.sq)[:, None]
            return np.where(far <= 0, far, -np.inf).astype(np.float16)[None]
        return added(case, t, -np.inf)[0].astype(np.float16)

    def tensor(self, kind, x):
        """A ggml tensor of kind `kind` with the values of x [heads, rows, features]."""
        h, n, d = x.shape
        made_here = BASE.ggml_new_tensor_4d(self.context, kind, d, n, h, 1)
        to = BASE.ggml_get_data(made_here)
        if kind == Q8_0:
            rows = np.ascontiguousarray(x, np.float32)
            BASE.ggml_quantize_chunk(kind, rows.ctypes.data, to, 0, h * n, d, None)
            return made_here
        raw = made.to_bf16_bits(x) if kind == BF16 else np.ascontiguousarray(x, {F32: np.float32, F16: np.float16}[kind])
        c.memmove(to, raw.ctypes.data, raw.nbytes)
        return made_here

    def run(self):
        """Computes; the object itself is the result."""
        if CPU.ggml_graph_compute(self.graph, c.byref(self.plan)) != 0:
            raise RuntimeError("ggml_graph_compute failed")
        return self

    def fetch(self):
        """f32 (o [Hq, Sq, D], None); ggml writes [Sq, Hq, D]."""
        n = self.case.sq * self.case.hq * self.case.d
        flat = np.ctypeslib.as_array(c.cast(BASE.ggml_get_data(self.out), c.POINTER(c.c_float)), (n,))
        return flat.reshape(self.case.sq, self.case.hq, self.case.d).transpose(1, 0, 2).copy(), None

    def __del__(self):
        BASE.ggml_free(self.context)


class Ggml(Peer):
    """Keys and values in the type of the case (q8_0 for int8), queries in f32, masks in f16, as llama.cpp calls it."""

    name, kind = "ggml", None

    def version(self):
        return BASE.ggml_version().decode()

    def can(self, case):
        if case.lse:
            return No("no output for lse")
        return WORKAROUND if case.kind == "t5" else NATIVE

    def prepare(self, case, tensors, threads):
        graph = Graph(case, tensors, CACHE[case.dtype] if self.kind is None else self.kind, threads)
        return Call(graph.run, Graph.fetch)


class HalfCache(Ggml):
    """llama.cpp's usual cache, f16, where the case says bf16."""

    name, kind = "ggml, f16 cache", F16

    def can(self, case):
        return NATIVE if case.dtype == "bf16" else No("for bf16 cases; elsewhere the cache has the type of the case")


PEERS = [Ggml(), HalfCache()]
