"""Plain files of one check of a kit, for `tests/gpu_kit.rs`: `python3 unpack.py KIT ID TARGET OUT`.

Goes out: OUT/plan.json, OUT/code.ptx, OUT/N.bin for the n-th tensor of the plan that has contents, OUT/NAME.ref for references.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kit"))
sys.dont_write_bytecode = True

import kitfiles


def unpack(kit, id, target, out):
    """Writes them."""
    check = next(c for c in kitfiles.manifest(kit)["checks"] if c["id"] == id)
    made = check["plans"][target]
    held = kitfiles.tensors(check["tensors"], kit)
    (out / "plan.json").write_text(json.dumps(dict(made["plan"], reference=check["reference"])))
    (out / "code.ptx").write_bytes(kitfiles.data(made["ptx"], kit))
    for n, entry in enumerate(made["plan"]["tensors"]):
        name = entry["name"]
        if entry["role"] == "table":
            (out / f"{n}.bin").write_bytes(kitfiles.data(made["tables"][name], kit))
        elif name in held:
            (out / f"{n}.bin").write_bytes(held[name][2])
        if f"ref.{name}" in held:
            (out / f"{name}.ref").write_bytes(held[f"ref.{name}"][2])


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
