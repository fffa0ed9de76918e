"""What attnc is measured against: torch's SDPA by backend, its flash kernels with windows and packed documents, FlexAttention, Triton.

Comes in: a shape of the manifest, tensors. Goes out: for each peer a call without arguments that returns o as (batch, heads, rows,
features), or `Absent` with the reason. What holds: masks and block masks are made before the clock runs; inputs are the same memory.
"""

import torch
import torch.nn.functional as F


class Absent(Exception):
    """A peer cannot do this."""


def sdpa(backend, shape, q, k, v, x):
    """`scaled_dot_product_attention` held to one backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if shape["kind"] not in ("full", "causal", "decode"):
        raise Absent(f"no {shape['kind']}")
    which, more = getattr(SDPBackend, backend), {}
    if shape["hq"] != shape["hkv"]:
        more["enable_gqa"] = True
    if shape["kind"] == "causal":
        more["is_causal"] = True
    if shape["kind"] == "decode" and shape["sq"] > 1:
        from torch.nn.attention.bias import causal_lower_right

        more["attn_mask"] = causal_lower_right(shape["sq"], shape["sk"])
        if backend == "CUDNN_ATTENTION":
            rows, keys = torch.arange(shape["sq"], device=q.device), torch.arange(shape["sk"], device=q.device)
            more["attn_mask"] = keys[None, :] <= rows[:, None] + shape["sk"] - shape["sq"]

    def call():
        with sdpa_kernel([which]):
            return F.scaled_dot_product_attention(q, k, v, **more)

    return call


def flash(shape, q, k, v, x):
    """The flash kernels inside torch, called directly: windows, documents, slopes of ALiBi."""
    op, kind = torch.ops.aten._flash_attention_forward, shape["kind"]
    if kind not in ("window", "documents", "alibi"):
        raise Absent("measured as SDPA flash" if kind in ("full", "causal", "decode") else f"no {kind}")
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if kind in ("window", "alibi"):
        more = dict(alibi_slopes=x["slopes"]) if kind == "alibi" else dict(window_size_left=shape["window"] - 1, window_size_right=0)
        words = (None, None, shape["sq"], shape["sk"], 0.0, kind == "alibi", False)
        return lambda: op(q, k, v, *words, **more)[0].transpose(1, 2)
    if shape["b"] != 1:
        raise Absent("packed documents of one batch only")
    bounds, n = x["bounds"], shape["sk"] // shape["documents"]
    q, k, v = q[0], k[0], v[0]
    return lambda: op(q, k, v, bounds, bounds, n, n, 0.0, True, False)[0].transpose(0, 1)[None]


def compiled():
    """A fresh compilation: those of other shapes would count against dynamo's limit, after which it stops compiling."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    return torch.compile(flex_attention, dynamic=False)


def flex(shape, q, k, v, x):
    """FlexAttention under torch.compile."""
    from torch.nn.attention.flex_attention import create_block_mask

    if not shape["flex"]:
        raise Absent("not asked for at this shape: it compiles for seconds")
    attend, kind, offset = compiled(), shape["kind"], shape["sk"] - shape["sq"]
    window, cap, slopes = shape["window"], shape["cap"], x["slopes"]
    causal = lambda b, h, i, j: j <= i + offset
    mask = dict(full=None, window=lambda b, h, i, j: (j <= i + offset) & (j > i + offset - window))
    if kind == "documents":
        doc = x["doc"][0]
        mask["documents"] = lambda b, h, i, j: (j <= i) & (doc[i] == doc[j])
    if kind == "decode" and shape["sq"] == 1:
        mask["decode"] = None
    wanted, block_mask, score = mask.get(kind, causal), None, None
    if wanted:
        block_mask = create_block_mask(wanted, None, None, shape["sq"], shape["sk"], device=q.device)
    if kind == "softcap":
        score = lambda s, b, h, i, j: cap * torch.tanh(s / cap)
    if kind == "alibi":
        score = lambda s, b, h, i, j: s - slopes[h] * (i + offset - j)
    grouped = shape["hq"] != shape["hkv"]
    return lambda: attend(q, k, v, score_mod=score, block_mask=block_mask, enable_gqa=grouped)


def in_triton(shape, q, k, v, x):
    """Our own Triton kernel."""
    if shape["kind"] not in ("full", "causal", "window", "softcap"):
        raise Absent(f"no {shape['kind']}")
    try:
        import tritonkernel
    except ImportError as err:
        raise Absent(f"triton is not there: {err}") from err
    o = torch.empty_like(q)
    mask = dict(causal=shape["causal"], window=shape["window"], cap=shape["cap"])
    tile = tritonkernel.fastest(q, k, v, o, **mask)
    return lambda: tritonkernel.attend(q, k, v, o, tile, **mask)


PEERS = {
    "SDPA cuDNN": lambda *a: sdpa("CUDNN_ATTENTION", *a),
    "SDPA flash": lambda *a: sdpa("FLASH_ATTENTION", *a),
    "torch flash": flash,
    "FlexAttention": flex,
    "Triton": in_triton,
}
