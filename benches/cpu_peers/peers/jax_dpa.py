"""jax.nn.dot_product_attention, jitted. XLA takes as many threads as it may run on cores, so the process is confined to them."""

import os

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-int(os.environ["ATTNC_PEERS_THREADS"]) :])
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

from peers import dense
from peers.base import NATIVE, WORKAROUND, Call, No, Peer

TYPES = dict(f32=jnp.float32, f16=jnp.float16, bf16=jnp.bfloat16)


def fetch(case):
    """f32 (o, lse) of what `dot_product_attention` returned, [1, Sq, Hq, D] or a pair with [1, Sq, Hq]."""

    def of(result):
        o, lse = result if case.lse else (result, None)
        heads = np.asarray(o[0].astype(jnp.float32)).transpose(1, 0, 2)
        return heads, None if lse is None else np.asarray(lse[0]).T

    return of


class Dpa(Peer):
    """Causal, windows, grouped heads, lse; bias and other masks as arrays of N x N elements, soft caps in plain jax.numpy."""

    name = "jax"

    def version(self):
        return jax.__version__

    def can(self, case):
        if case.dtype == "int8":
            return No("no int8 cache")
        if case.sk > 4096 and case.sq > 1:
            return No("its scores would take more than 2 GB")
        return WORKAROUND if case.kind in ("alibi", "t5", "softcap", "documents") else NATIVE

    def prepare(self, case, tensors, threads):
        q, k, v = (jnp.asarray(tensors[n].transpose(1, 0, 2)[None]).astype(TYPES[case.dtype]) for n in "qkv")
        if case.kind == "softcap":
            f = jax.jit(lambda q, k, v: capped(case, q, k, v))
            return Call(lambda: f(q, k, v).block_until_ready(), fetch(case))
        options = dict(scale=case.scale, is_causal=case.causal)
        if case.window:
            options["local_window_size"] = (case.window - 1, 0)
        if case.lse:
            options["return_residual"] = True
        arrays = {}
        if case.kind in ("alibi", "t5"):
            arrays["bias"] = jnp.asarray(dense.added(case, tensors))
        if case.kind == "documents":
            arrays["mask"] = jnp.asarray(dense.added(case, tensors)) == 0
        f = jax.jit(lambda q, k, v, arrays: jax.nn.dot_product_attention(q, k, v, **arrays, **options))
        return Call(lambda: jax.block_until_ready(f(q, k, v, arrays)), fetch(case))


def capped(case, q, k, v):
    """Soft-capped causal attention in plain jax.numpy, [1, rows, heads, features]."""
    s = jnp.einsum("bihd,bjhd->bhij", q, k) * case.scale
    s = case.cap * jnp.tanh(s / case.cap)
    s = jnp.where(jnp.tri(case.sq, dtype=bool), s, -jnp.inf)
    return jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(s, -1), v)


PEERS = [Dpa()]
