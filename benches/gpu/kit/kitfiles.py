"""Reads what the kit holds. Standard library only.

Comes in: the folder of the kit. Goes out: the manifest, bytes of files, tensors by name. What holds: another schema is an error.
"""

import gzip
import json
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCHEMA = 1
NAMES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F64": "f64", "I8": "i8", "I32": "i32", "I64": "i64", "BOOL": "bit", "F8_E4M3": "f8e4m3"}
RUNS_ON = {"sm_80": lambda c: c >= (8, 0), "sm_86": lambda c: c >= (8, 6), "sm_89": lambda c: c >= (8, 9), "sm_90a": lambda c: c == (9, 0)}


def manifest(folder=HERE):
    """`kit.json`"""
    found = json.loads((folder / "kit.json").read_text())
    if found["schema"] != SCHEMA:
        raise SystemExit(f"kit.json has schema {found['schema']}, this program reads {SCHEMA}: build the kit again")
    return found


def data(name, folder=HERE):
    """The bytes of a file of the kit."""
    return gzip.decompress((folder / name).read_bytes())


def tensors(name, folder=HERE):
    """{name: (dtype, shape, bytes)} of a file."""
    whole = data(name, folder)
    length = struct.unpack("<Q", whole[:8])[0]
    head, out = json.loads(whole[8 : 8 + length]), {}
    for key, field in head.items():
        lo, hi = field["data_offsets"]
        out[key] = (NAMES[field["dtype"]], field["shape"], whole[8 + length + lo : 8 + length + hi])
    return out


def usable(targets, capability):
    """Targets whose code runs on a GPU of this capability, the best first."""
    fits = [t for t in targets if RUNS_ON.get(t, lambda _: False)(tuple(capability))]
    return sorted(fits, key=list(RUNS_ON).index, reverse=True)
