"""Writes docs/goldens.md: which golden says what of which mechanism, who made it and who agrees.

Comes in: the metadata of tests/goldens and tests/goldens/pending. Goes out: the page. Needs numpy alone: the differences of
the first goldens are computed by `check_goldens`, those of the others stand in their provenance.
"""

import json

import numpy as np

import check_goldens

PAGE = check_goldens.ROOT / "docs" / "goldens.md"
FAMILIES = {
    "alibi": "ALiBi", "bigbird": "BigBird, blocks counted", "bool": "mask tensors", "causal": "causal", "dense": "all pairs", "doc": "documents", "gqa": "grouped heads",
    "lightning": "lightning attention", "minilm": "a layer of all-MiniLM-L6-v2", "pattern": "static patterns", "prefix": "prefix LM", "relu": "relu weights", "rope": "rope",
    "score": "additive bias", "sigmoid": "sigmoid weights", "sinks": "attention sinks", "softcap": "capped scores", "t5": "T5's relative bias", "window": "sliding windows", "table": "integer and slope tables",
}  # fmt: skip
HEAD = """# Goldens: who computed what

Every file of [tests/goldens](../tests/goldens/README.md) with the implementation that made it and the second one that agrees.
Written by `tests/oracles/page.py`; do not edit by hand. "Difference" is the largest absolute difference of an output
between the two (of o, lse and states; -inf must stand at the same places). For caches every byte is equal. What stands in
`pending/` runs on no target yet and moves up when its mechanism does.
"""


def differences(path, tensors, metadata):
    """Largest difference between a golden of the first kind and the formula of check_goldens."""
    if metadata["kind"] == "recurrence":
        want = check_goldens.lightning(tensors)
        return max(np.abs(tensors[key] - want[key]).max() for key in json.loads(metadata["outputs"]))
    o, lse, _ = check_goldens.KERNELS[metadata["kernel"]](check_goldens.Case(tensors, metadata))
    worst = 0.0
    for key in json.loads(metadata["outputs"]):
        want = lse if key == "lse" else o
        if key != "o_low":
            seen = np.isfinite(want)
            worst = max(worst, np.abs(tensors[key].astype(np.float64)[seen] - want[seen]).max(initial=0))
    return worst


def row(path):
    """One line of the table."""
    tensors, metadata = check_goldens.read(path)
    made = json.loads(metadata["provenance"])
    name = path.relative_to(check_goldens.ROOT / "tests" / "goldens").with_suffix("")
    by = " ".join(x for x in (made["package"], made["version"]) if x)
    if made["package"] != "torch":
        by += f", torch {made['torch']}"
    cell = f"{by}: `{made['call'].replace('|', '/').replace('`', '').replace('](', '] (')}`"  # no call may look like a link
    if "second" in made:
        return made["mechanism"], name, cell, made["second"], f"{made['difference']:.1e}"
    mechanism = FAMILIES[path.stem.split("_")[0]]
    if metadata["kind"] == "table":
        return mechanism, name, cell, "exact rule on integers, check_goldens.py", "equal" if "t5" in path.stem else "2e-6 relative"
    return mechanism, name, cell, "numpy formula, check_goldens.py", f"{differences(path, tensors, metadata):.1e}"


def main():
    """Writes the page."""
    goldens = check_goldens.ROOT / "tests" / "goldens"
    parts = [HEAD]
    for title, folder in (("Run by the tests", goldens), ("Pending", goldens / "pending")):
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            continue
        parts.append(f"\n## {title}\n\n| mechanism | golden | made by | second oracle | difference |\n|---|---|---|---|---|\n")
        parts += [f"| {a} | `{b}` | {c} | {d} | {e} |\n" for a, b, c, d, e in map(row, paths)]
        parts.append(f"\n{len(paths)} files, {sum(p.stat().st_size for p in paths)} bytes.\n")
    text = "".join(parts)
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(check_goldens.ROOT)}: {text.count(chr(10))} lines")


if __name__ == "__main__":
    main()
