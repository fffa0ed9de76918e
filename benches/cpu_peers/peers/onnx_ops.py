"""onnxruntime: GroupQueryAttention and MultiHeadAttention of its own domain, and Attention of the ONNX standard."""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from peers.base import NATIVE, WORKAROUND, Call, No, Peer
from peers.dense import added

OPSET = 24
ELEMENT = dict(f32=(TensorProto.FLOAT, np.float32), f16=(TensorProto.FLOAT16, np.float16))


def by_row(x):
    """[heads, rows, features] -> [1, rows, heads * features]."""
    return np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(1, x.shape[1], -1)


def from_rows(o, case):
    """The inverse, as f32 [Hq, Sq, D]."""
    return np.asarray(o, np.float32).reshape(case.sq, case.hq, case.d).transpose(1, 0, 2)


class Bound:
    """A model of one node whose inputs and outputs are bound once."""

    def __init__(self, node, inputs, outputs, threads, domain=""):
        """`inputs` {name: array}, `outputs` {name: OrtValue}; the versions of domains are OPSET and 1."""
        kinds = {np.dtype(t): e for e, t in ELEMENT.values()} | {np.dtype(np.int32): TensorProto.INT32}
        info = helper.make_tensor_value_info
        values = {n: x if isinstance(x, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(x) for n, x in inputs.items()}
        ins = [info(n, kinds[x.numpy().dtype], x.shape()) for n, x in values.items()]
        outs = [info(n, kinds[x.numpy().dtype], x.shape()) for n, x in outputs.items()]
        sets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        model = helper.make_model(helper.make_graph([node], "attention", ins, outs), opset_imports=sets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.binding, self.outputs, self.kept = self.session.io_binding(), outputs, values
        for n, x in values.items():
            self.binding.bind_ortvalue_input(n, x)
        for n, x in outputs.items():
            self.binding.bind_ortvalue_output(n, x)

    def run(self):
        """One call; the first output."""
        self.session.run_with_iobinding(self.binding)
        return next(iter(self.outputs.values()))


def empty(shape, dtype):
    """An OrtValue of zeros."""
    return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))


class Onnx(Peer):
    """What the three operators share."""

    def version(self):
        return ort.__version__

    def refused(self, case):
        """A reason that holds for each of them, or None."""
        if case.lse:
            return No("no output for lse")
        return None if case.dtype in ELEMENT else No(f"no {case.dtype} on CPUs")


class Gqa(Onnx):
    """Causal, grouped heads, windows, soft caps, a cache written in place; bias as a tensor of N x N elements."""

    name = "onnxruntime GQA"

    def can(self, case):
        refused = self.refused(case) or (No("causal only") if case.kind == "full" else None)
        if refused is not None:
            return refused
        return WORKAROUND if case.kind in ("alibi", "t5", "documents") else NATIVE

    def prepare(self, case, tensors, threads):
        kind = ELEMENT[case.dtype][1]
        new = slice(case.sk - case.sq, None)
        ins = dict(q=by_row(tensors["q"]).astype(kind))
        ins |= {n: by_row(tensors[n][:, new]).astype(kind) for n in "kv"}
        names, outs = ["q", "k", "v", "", "", "length", "total"], {"o": empty((1, case.sq, case.hq * case.d), kind)}
        cache = {n: tensors[n][None].astype(kind) for n in "kv"}
        for n in "kv":
            outs[f"present_{n}"] = ort.OrtValue.ortvalue_from_numpy(cache[n])
        if case.kind == "decode":
            names[3:5] = ["past_k", "past_v"]
            ins |= {f"past_{n}": outs[f"present_{n}"] for n in "kv"}  # one buffer for both: rows are appended in place
        ins |= dict(length=np.array([case.sk - 1], np.int32), total=np.array([case.sk], np.int32))
        if case.kind in ("alibi", "t5", "documents"):
            names += ["", "", "", "bias"]
            ins["bias"] = added(case, tensors)
        options = dict(num_heads=case.hq, kv_num_heads=case.hkv, scale=case.scale, softcap=case.cap)
        options["local_window_size"] = case.window or -1
        node = helper.make_node("GroupQueryAttention", names, list(outs), domain="com.microsoft", **options)
        bound = Bound(node, ins, outs, threads, "com.microsoft")
        return Call(bound.run, lambda o: (from_rows(o.numpy(), case), None))


class Mha(Onnx):
    """Full and causal; bias as a tensor of N x N elements."""

    name = "onnxruntime MHA"

    def can(self, case):
        refused = self.refused(case)
        if refused is None and (case.hq != case.hkv or case.kind in ("decode", "softcap") or case.dtype != "f32"):
            refused = No("no grouped heads, soft caps or f16")
        return refused if refused is not None else NATIVE if case.kind in ("causal", "full") else WORKAROUND

    def prepare(self, case, tensors, threads):
        ins = {n: by_row(tensors[n]) for n in "qkv"}
        names = ["q", "k", "v"]
        if case.kind not in ("causal", "full"):
            names += ["", "", "bias"]
            ins["bias"] = added(case, tensors)
        options = dict(num_heads=case.hq, scale=case.scale, unidirectional=int(case.kind == "causal"))
        node = helper.make_node("MultiHeadAttention", names, ["o"], domain="com.microsoft", **options)
        outs = {"o": empty((1, case.sq, case.hq * case.d), np.float32)}
        bound = Bound(node, ins, outs, threads, "com.microsoft")
        return Call(bound.run, lambda o: (from_rows(o.numpy(), case), None))


class Attention(Onnx):
    """The standard's operator: full, causal, grouped heads, soft caps; bias and mask as a tensor of N x N elements."""

    name = "onnxruntime Attention"

    def can(self, case):
        refused = self.refused(case)
        if refused is not None:
            return refused
        return NATIVE if case.kind in ("causal", "full", "softcap", "decode") else WORKAROUND

    def prepare(self, case, tensors, threads):
        kind = ELEMENT[case.dtype][1]
        ins = {n: tensors[n][None].astype(kind) for n in "qkv"}
        masked = self.can(case) == WORKAROUND
        if masked:
            ins["mask"] = added(case, tensors)
        options = dict(scale=case.scale, softcap=case.cap, is_causal=int(case.causal and not masked))
        node = helper.make_node("Attention", list(ins), ["o"], **options)
        outs = {"o": empty((1, case.hq, case.sq, case.d), kind)}
        bound = Bound(node, ins, outs, threads)
        return Call(bound.run, lambda o: (o.numpy()[0].astype(np.float32), None))


PEERS = [Gqa(), Mha(), Attention()]
