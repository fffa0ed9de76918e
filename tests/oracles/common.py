"""What every oracle script shares: reproducible inputs and the golden file writer.

Comes in: tensors of another implementation's inputs and outputs. Goes out: one safetensors file per
case in tests/goldens, its metadata as ../goldens/README.md describes. Afterwards the file is below
MAX_BYTES. Nothing here computes attention: each family script calls someone else's code for that.
"""

import contextlib
import json
import zlib
from importlib import metadata as metadata_of
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests" / "goldens"
SPECS = "tests/goldens/specs"
MAX_BYTES = 300_000
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.int8: "I8", torch.bool: "BOOL"}

torch.set_grad_enabled(False)


def generator(name):
    """A numpy generator that depends on the case's name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def normal(gen, *shape, scale=1.0, dtype="f32"):
    """N(0, scale^2) values, rounded to `dtype`."""
    values = gen.standard_normal(shape).astype(np.float32) * np.float32(scale)
    return torch.from_numpy(values).to(DTYPES[dtype])


def qkv(gen, b, h, s, d, dtype="f32"):
    """q, k, v of one shape [b, h, s, d]."""
    return [normal(gen, b, h, s, d, dtype=dtype) for _ in range(3)]


class Fixed(torch.nn.Module):
    """Stands in for a projection: returns the given tensor, so that a module runs on chosen q, k, v."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _hidden):
        return self.value.clone()


def merge_heads(x):
    """[B, H, S, D] to [B, S, H * D], the layout in which modules project."""
    b, h, s, d = x.shape
    return x.transpose(1, 2).reshape(b, s, h * d)


def split_heads(x, h):
    """[B, S, H * D] to [B, H, S, D]."""
    b, s, e = x.shape
    return x.reshape(b, s, h, e // h).transpose(1, 2)


def flex(q, k, v, mask_mod=None, score_mod=None, scale=None, enable_gqa=False):
    """torch's flex_attention, run eagerly in f64 (it materialises every pair). Returns o, lse."""
    import warnings

    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    block_mask = None
    if mask_mod is not None:
        block_mask = create_block_mask(mask_mod, q.shape[0], q.shape[1], q.shape[2], k.shape[2], device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        o, aux = flex_attention(
            q.double(), k.double(), v.double(), score_mod=score_mod, block_mask=block_mask,
            scale=scale, enable_gqa=enable_gqa, return_aux=AuxRequest(lse=True),
        )
    return o, aux.lse


FLEX = "torch.nn.attention.flex_attention.flex_attention(q, k, v, block_mask=create_block_mask(mask), return_aux=AuxRequest(lse=True)), eager, f64"


def indices(q, k, align="none"):
    """Column i and row j of logical positions, for masks written out as tensors."""
    offset = k.shape[-2] - q.shape[-2] if align == "bottom_right" else 0
    return torch.arange(q.shape[-2])[:, None] + offset, torch.arange(k.shape[-2])[None, :]


def additive(mask, dtype=torch.float64):
    """0 where `mask` holds, -inf elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, float("-inf"))


def write(name, spec, kernel, dims, inputs, outputs, call, package="torch", params=None, dtype="f32", note="", kind="attention", tolerance_class=None,
          updated=None, extra=None, more=None):
    """Writes tests/goldens/<name>.safetensors.

    f64 outputs are stored as f32; outputs that are low precision already (`o_low`) stay as they are.
    `spec` is the file name in tests/goldens/specs, or a path from the root. `updated` holds caches as they are after
    the run, stored as `<name>.after`; `extra` holds tensors that are neither bound nor returned; `more` goes into the
    provenance.
    """
    tensors = {}
    after = {f"{key}.after": value for key, value in (updated or {}).items()}
    for key, value in {**inputs, **outputs, **after, **(extra or {})}.items():
        value = value.to(torch.float32) if value.dtype == torch.float64 else value
        value = value.to(torch.int32) if value.dtype == torch.int64 else value
        tensors[key] = value.contiguous().clone()
    metadata = {
        "format": "attnc-golden-1",
        "kind": kind,
        "spec": spec if "/" in spec else f"{SPECS}/{spec}",
        "kernel": kernel,
        "params": json.dumps(params or {}),
        "dims": json.dumps(dims),
        "dtype": dtype,
        "inputs": json.dumps(list(inputs)),
        "outputs": json.dumps(list(outputs)),
        "tolerance_class": tolerance_class or dtype,
        "provenance": json.dumps(provenance(package, call, note) | (more or {})),
    }
    if updated:
        metadata["updated"] = json.dumps(list(updated))
    emit(name, tensors, metadata)


def write_table(name, tensors, call, package, note=""):
    """Writes a golden of plain tables: no kernel, compared element by element."""
    metadata = {
        "format": "attnc-golden-1",
        "kind": "table",
        "outputs": json.dumps(list(tensors)),
        "tolerance_class": "exact",
        "provenance": json.dumps(provenance(package, call, note)),
    }
    emit(name, tensors, metadata)


def version(package):
    """Version of an installed package, without a local suffix; empty for what is none."""
    try:
        return metadata_of.version(package).split("+")[0]
    except metadata_of.PackageNotFoundError:
        return ""


def provenance(package, call, note):
    """Which code made the outputs, in which version, by which call."""
    import safetensors

    record = {
        "package": package,
        "version": version(package),
        "torch": version("torch"),
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "call": call,
    }
    if note:
        record["note"] = note
    return record


def serialise(tensors, metadata):
    """A safetensors file with keys in a fixed order, so that a second run writes the same bytes.

    The package's own `save` orders the metadata by a seeded hash, anew in every process.
    """
    header, chunks, offset = {"__metadata__": metadata}, [], 0
    for key, value in sorted(tensors.items(), key=lambda item: -item[1].element_size()):  # wide ones first: all aligned
        raw = value.contiguous().view(torch.uint8).numpy().tobytes()
        header[key] = dict(dtype=KINDS[value.dtype], shape=list(value.shape), data_offsets=[offset, offset + len(raw)])
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)


def emit(name, tensors, metadata, limit=MAX_BYTES, folder=GOLDENS):
    """Serialises, checks finiteness and size, writes."""
    for key, value in tensors.items():
        if value.is_floating_point() and torch.isnan(value.float()).any():
            raise ValueError(f"golden {name}: tensor {key} holds NaN; the oracle's own output must be finite or -inf")
    data = serialise(tensors, metadata)
    if len(data) > limit:
        raise ValueError(f"golden {name}: {len(data)} bytes, allowed {limit}; make the case smaller")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    path.write_bytes(data)
    with safe_open(path, "pt") as back:
        if back.metadata() != metadata or any(not torch.equal(back.get_tensor(key), value) for key, value in tensors.items()):
            raise ValueError(f"golden {name}: the safetensors package reads something else than was written to {path}")
    print(f"{name:32} {len(data):8} bytes  {', '.join(f'{k}{list(v.shape)}' for k, v in tensors.items())}")


def difference(name, key, first, second, limit):
    """Largest absolute difference of two outputs; an error where they disagree, or where -inf stands elsewhere."""
    first, second = first.double(), second.double()
    if first.shape != second.shape:
        raise ValueError(f"golden {name}: {key} is {list(first.shape)} by one oracle and {list(second.shape)} by the other")
    where = torch.isneginf(first)
    if not torch.equal(where, torch.isneginf(second)):
        raise ValueError(f"golden {name}: {key} is -inf at other places in the two oracles")
    worst = (first - second).masked_fill(where, 0.0).abs().max().item()
    if not worst <= limit:
        raise ValueError(f"golden {name}: the two oracles differ by {worst:.2e} in {key}, allowed {limit:.1e}")
    return worst


def write_twice(name, mechanism, spec, kernel, dims, inputs, outputs, second, call, package, by="own f64 formula", limit=2e-6, updated=None,
                  second_updated=None, **rest):
    """Writes tests/goldens/<name>.safetensors, once two oracles agree on every output.

    `outputs` is what is stored, `second` the same by another way, `by` says which. `limit` bounds |a - b| of each output;
    of recurrences (f32_linear) it is relative to the largest |output|. Caches (`updated`) must be equal.
    """
    linear = rest.get("tolerance_class") == "f32_linear"
    worst = 0.0
    for key, value in outputs.items():
        scale = value.double().abs().max().item() if linear else 1.0
        worst = max(worst, difference(name, key, value, second[key], limit * scale))
    for key, value in (updated or {}).items():
        worst = max(worst, difference(name, key, value, second_updated[key], 0.0))
    more = dict(mechanism=mechanism, second=by, difference=float(f"{worst:.2e}"))
    write(name, spec, kernel, dims, inputs, outputs, call, package, updated=updated, more=more, **rest)


class _Wide:
    """torch in which float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def widened(*modules):
    """Runs functions of `modules` in f64 where they ask for f32: `.float()` and `torch.float32` mean f64 meanwhile."""
    narrow, before = torch.Tensor.float, [m.torch for m in modules]
    try:
        torch.Tensor.float = lambda x: x.double() if x.is_floating_point() else narrow(x)
        for m in modules:
            m.torch = _Wide()
        yield
    finally:
        torch.Tensor.float = narrow
        for m, torch_before in zip(modules, before):
            m.torch = torch_before


WIDE = "f32 inside widened to f64"


def dense(score, v, mask=None, sink=None, keep=None):
    """The f64 formula of masked softmax attention: o and lse, both of empty rows right (0 and -inf, or the sink).

    `score` [B, Hq, Sq, Sk] f64; `v` [B, Hq, Sk, Dv]; `sink` broadcasts to [B, Hq, Sq]; `keep` multiplies the weights.
    """
    score = score.double()
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    top = score.amax(-1)
    if sink is not None:
        top = torch.maximum(top, sink.double().expand_as(top))
    base = torch.where(top.isfinite(), top, 0.0)
    e = torch.exp(score - base[..., None])
    total = e.sum(-1) + (0.0 if sink is None else torch.exp(sink.double() - base))
    weight = e / torch.where(total > 0, total, 1.0)[..., None]
    o = (weight if keep is None else weight * keep) @ v.double()
    return o, base + torch.log(total)


def spread(x, hq, how="grouped"):
    """Key heads repeated for hq query heads."""
    hkv = x.shape[1]
    at = torch.arange(hq) // (hq // hkv) if how == "grouped" else torch.arange(hq) % hkv
    return x[:, at]


def dots(q, k):
    """q . k in f64 for every (b, h, i, j); key heads grouped."""
    return q.double() @ spread(k, q.shape[1]).double().transpose(-1, -2)
