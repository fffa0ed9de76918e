"""numpy: scores in memory, one head at a time."""

import numpy as np

from peers import dense
from peers.base import NATIVE, WORKAROUND, Call, No, Peer


class Numpy(Peer):
    """The definition, in f32."""

    name = "numpy"

    def version(self):
        return np.__version__

    def can(self, case):
        if case.dtype != "f32":
            return No("f32 only")
        if case.sq > 4096:
            return No("takes seconds")
        return NATIVE if case.kind in ("causal", "full", "decode") and not case.lse else WORKAROUND

    def prepare(self, case, tensors, threads):
        q, k, v = (tensors[n] for n in "qkv")
        mask = dense.added(case, tensors)[0] if case.causal else None
        group = case.hq // case.hkv

        def run():
            o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
            for h in range(case.hq):
                s = (q[h] * np.float32(case.scale)) @ k[h // group].T
                if case.cap:
                    s = np.tanh(s / np.float32(case.cap)) * np.float32(case.cap)
                if mask is not None:
                    s += mask[h if len(mask) > 1 else 0]
                top = s.max(-1, keepdims=True)
                s -= top
                np.exp(s, out=s)
                total = s.sum(-1, keepdims=True)
                o[h] = (s @ v[h // group]) / total
                if case.lse:
                    lse[h] = (top + np.log(total))[:, 0]
            return o, lse if case.lse else None

        return Call(run, lambda r: r)


PEERS = [Numpy()]
