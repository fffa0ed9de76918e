"""OpenVINO: the operator scaled_dot_product_attention, and the stateful model with a cache that language models are exported to."""

import numpy as np
import openvino as ov
from openvino import opset13 as ops

import tensors as made
from peers.base import NATIVE, WORKAROUND, Call, No, Peer
from peers.dense import added

TYPES = dict(f32=ov.Type.f32, f16=ov.Type.f16, bf16=ov.Type.bf16, int8=ov.Type.f32)


def tensor(x, dtype):
    """An ov.Tensor [1, ...] of f32 values in the type of a case."""
    if dtype == "bf16":
        held = ov.Tensor(ov.Type.bf16, ov.Shape([1, *x.shape]))
        held.data.view(np.uint16)[:] = made.to_bf16_bits(x)[None]
        return held
    return ov.Tensor(np.ascontiguousarray(x[None].astype(np.float16 if dtype == "f16" else np.float32)))


def repeated(x, case, rows):
    """Key heads repeated for the query heads that read them: the pattern that the plugin fuses."""
    if case.hq == case.hkv:
        return x
    each = case.hq // case.hkv
    shape = ops.constant(np.array([1, case.hkv, each, 1, case.d], np.int64))
    wide = ops.broadcast(ops.unsqueeze(x, 2), shape, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(wide, ops.constant(np.array([0, case.hq, rows, case.d], np.int64)), special_zero=True)


def compiled(results, sinks, parameters, case, threads):
    """An infer request of a model on the CPU, in the precision of the case; an int8 cache is the plugin's own."""
    precision = {"f32": "f32", "int8": "f32"}.get(case.dtype, case.dtype)
    cache = "u8" if case.dtype == "int8" else precision
    options = dict(INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1, PERFORMANCE_HINT="LATENCY")
    options |= dict(INFERENCE_PRECISION_HINT=precision, KV_CACHE_PRECISION=cache)
    model = ov.Model(results, sinks, parameters) if sinks else ov.Model(results, parameters)
    return ov.Core().compile_model(model, "CPU", options).create_infer_request()


def fetch(case):
    """f32 (o [Hq, Sq, D], None) of an infer request; bf16 results are made f32 in the model."""
    return lambda request: (request.get_output_tensor(0).data.astype(np.float32).reshape(case.hq, case.sq, case.d), None)


class Base(Peer):
    """What both share."""

    def version(self):
        return ov.__version__.split("-")[0]


class Sdpa(Base):
    """The operator without state: causal or full; everything else as a mask of N x N elements."""

    name = "OpenVINO SDPA"

    def can(self, case):
        if case.lse or case.kind == "softcap":
            return No("no lse, no soft cap")
        if case.dtype == "int8":
            return No("a cache is state")
        return NATIVE if case.kind in ("causal", "full", "decode") else WORKAROUND

    def prepare(self, case, tensors, threads):
        kind = TYPES[case.dtype]
        q = ops.parameter([1, case.hq, case.sq, case.d], kind)
        k, v = (ops.parameter([1, case.hkv, case.sk, case.d], kind) for _ in "kv")
        heads = [repeated(x, case, case.sk) for x in (k, v)]
        values, parameters = [tensor(tensors[n], case.dtype) for n in "qkv"], [q, k, v]
        scale = ops.constant(np.float32(case.scale))
        if kind != ov.Type.f32:
            scale = ops.convert(scale, kind.get_type_name())
        mask = None
        if self.can(case) == WORKAROUND:
            values.append(ov.Tensor(added(case, tensors)))
            mask = ops.parameter(list(values[-1].shape), ov.Type.f32)
            parameters.append(mask)
        causal = case.causal and mask is None
        o = ops.scaled_dot_product_attention(q, *heads, *([mask] if mask else []), *([scale] if mask else []), causal=causal)
        request = compiled([ops.result(ops.convert(o, "f32"))], [], parameters, case, threads)
        for n, x in enumerate(values):
            request.set_input_tensor(n, x)
        return Call(lambda: request.infer(share_outputs=True) and None or request, fetch(case))


class Stateful(Base):
    """A decode step: one key and value are appended to the cache that the model holds, then the query sees all of it."""

    name = "OpenVINO stateful"

    def can(self, case):
        return NATIVE if case.kind == "decode" else No("for decode steps")

    def prepare(self, case, tensors, threads):
        kind = TYPES[case.dtype]
        q = ops.parameter([1, case.hq, -1, case.d], kind)
        new = [ops.parameter([1, case.hkv, -1, case.d], kind) for _ in "kv"]
        order = ops.parameter([-1], ov.Type.i32)
        caches, sinks = [], []
        for name, x in zip("kv", new):
            shape = ov.PartialShape([-1, case.hkv, -1, case.d])
            info = ov.op.util.VariableInfo()
            info.data_shape, info.data_type, info.variable_id = shape, kind, f"past_{name}"
            variable = ov.op.util.Variable(info)
            first = ops.constant(np.zeros((1, case.hkv, 0, case.d), np.float32))
            first = first if kind == ov.Type.f32 else ops.convert(first, kind.get_type_name())
            held = ops.gather(ops.read_value(first, variable), order, ops.constant(np.int64(0)))
            whole = ops.concat([held, x], 2)
            sinks.append(ops.assign(whole, variable))
            caches.append(repeated(whole, case, -1))
        o = ops.scaled_dot_product_attention(q, *caches, causal=False)
        request = compiled([ops.result(ops.convert(o, "f32"))], sinks, [q, *new, order], case, threads)
        old = {n: tensor(tensors[n][:, :-1], case.dtype) for n in "kv"}
        last = [tensor(tensors[n][:, -1:], case.dtype) for n in "kv"]
        for n, x in enumerate([tensor(tensors["q"], case.dtype), *last, ov.Tensor(np.zeros(1, np.int32))]):
            request.set_input_tensor(n, x)

        def reset():
            request.reset_state()
            for state in request.query_state():
                state.state = old[state.name[-1]]

        reset()
        return Call(lambda: request.infer(share_outputs=True) and None or request, fetch(case), reset, most=max(20, case.sk // 100))


PEERS = [Sdpa(), Stateful()]
