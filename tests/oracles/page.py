"""Writes docs/goldens.md: the acceptance matrix with its goldens, then which golden says what, who made it, who agrees, and by
how much we are off.

Comes in: the metadata of tests/goldens, the rows of `matrix`, our errors as tests/goldens.rs recorded them. Goes out: the page.
Needs numpy alone: the differences of the first goldens are computed by `check_goldens`, those of the others stand in their
provenance. Stops if a golden is in no row, if a row has none (or none in f16 and bf16, and no reason), or if the errors are of
other goldens.
"""

import fnmatch
import json

import numpy as np

import check_goldens
from matrix import MORE, ONLY_F32, ROWS

PAGE = check_goldens.ROOT / "docs" / "goldens.md"
GOLDENS = check_goldens.ROOT / "tests" / "goldens"
TYPES = ("f32", "f16", "bf16")
FAMILIES = {
    "alibi": "ALiBi", "bigbird": "BigBird, blocks counted", "bool": "mask tensors", "causal": "causal", "dense": "all pairs", "doc": "documents", "gqa": "grouped heads",
    "lightning": "lightning attention", "minilm": "a layer of all-MiniLM-L6-v2", "mqa": "one key head", "pattern": "static patterns", "prefix": "prefix LM", "relu": "relu weights",
    "rope": "rope", "score": "additive bias", "sigmoid": "sigmoid weights", "sinks": "attention sinks", "softcap": "capped scores", "t5": "T5's relative bias",
    "window": "sliding windows", "table": "integer and slope tables",
}  # fmt: skip
HEAD = """# Goldens: who computed what

Every file of [tests/goldens](../tests/goldens/README.md): the rows of the acceptance matrix that it stands for, the implementation that
made it, the second one that agrees, and how far off we are. Written by `tests/oracles/page.py` from `tests/oracles/matrix.py`
and `tests/goldens/errors.json`; do not edit by hand. `tests/goldens.rs` runs them all.

## Acceptance matrix

Forward rows; the backward ones are out of scope. An error is the largest |ours - golden| over all outputs (o, lse, states) of
the row's goldens in that type, seen on {target}. It depends on the instruction set, so the test
holds the gates and not these figures. The gates of linear attentions grow with their outputs, which are as large as their
sequences are long. "torch" in the third column is torch's own attention (SDPA or flex_attention, in f64), unless the row
says that no released code runs on a CPU: then it is an independent formula.

"""
FILES = """
## All files

"Difference" is the largest absolute difference of an output between the two oracles (of o, lse and states; -inf must stand at the
same places). "Our error" is the largest of ours and its output, its gate in brackets (atol), and the relative L2 of o. For caches
every byte is equal.

| mechanism | golden | made by | second oracle | difference | our error |
|---|---|---|---|---|---|
"""


def differences(tensors, metadata):
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


def maker(metadata):
    """Package and version of who made a golden."""
    made = json.loads(metadata["provenance"])
    return " ".join(x for x in (made["package"], made["version"]) if x)


def file_row(name, tensors, metadata, error):
    """One line of the table of files."""
    made, by = json.loads(metadata["provenance"]), maker(metadata)
    if made["package"] != "torch":
        by += f", torch {made['torch']}"
    cell = f"{by}: `{made['call'].replace('|', '/').replace('`', '').replace('](', '] (')}`"  # no call may look like a link
    ours = "a table, no kernel runs"
    if error:
        ours = f"{error['output']} {error['max_abs']:.1e} ({error['gate']['atol']:.1e}), L2 {error['rel_l2_of_o']:.1e}"
    if "second" in made:
        mechanism, second, difference = made["mechanism"], made["second"], f"{made['difference']:.1e}"
    else:
        mechanism, second = FAMILIES[name.split("_")[0]], "numpy formula, check_goldens.py"
        if metadata["kind"] == "table":
            second, difference = "exact rule on integers, check_goldens.py", "equal" if "t5" in name else "2e-6 relative"
        else:
            difference = f"{differences(tensors, metadata):.1e}"
    return f"| {mechanism} | `{name}` | {cell} | {second} | {difference} | {ours} |\n"


def base(name):
    """A name without the type at its end."""
    return name.removesuffix("_bf16").removesuffix("_f16")


def named(row, goldens):
    """The goldens of a row: patterns are of names without a type."""
    title, patterns, _ = row
    found = []
    for pattern in patterns.split():
        hits = [name for name in goldens if fnmatch.fnmatchcase(base(name), pattern)]
        if not hits:
            raise ValueError(f"row {title!r}: no golden is called {pattern}")
        found += hits
    return found


def worst(names, goldens, errors):
    """Largest error of each type, or a dash."""
    cells = []
    for dtype in TYPES:
        seen = [errors[name]["max_abs"] for name in names if name in errors and goldens[name][1]["dtype"] == dtype]
        cells.append(f"{max(seen):.1e}" if seen else "-")
    return cells


def matrix(rows, goldens, errors):
    """The lines of a table of rows; every golden that one of them names."""
    lines, used = ["| row | goldens | made by | f32 | f16 | bf16 |\n|---|---|---|---|---|---|\n"], set()
    for row in rows:
        names = named(row, goldens)
        used |= set(names)
        by = ", ".join(dict.fromkeys(maker(goldens[name][1]) for name in names))
        by = f"{row[2]} ({by})" if row[2].startswith("**") else "; ".join(x for x in (by, row[2]) if x)
        files = ", ".join(f"`{name}`" for name in dict.fromkeys(base(name) for name in names))
        lines.append(f"| {row[0]} | {files} | {by} | {' | '.join(worst(names, goldens, errors))} |\n")
    return lines, used


def low_row(goldens, errors):
    """The last line of the matrix: what stands in f16 and bf16, and why some rows do not."""
    low = [name for name in goldens if name != base(name)]
    missing = {row[0] for row in ROWS if not any(name in low for name in named(row, goldens))}
    if missing != set(ONLY_F32):
        raise ValueError(f"rows without f16 and bf16, or with a reason for nothing: {sorted(missing ^ set(ONLY_F32))}")
    why = "; ".join(f"{title} ({reason})" for title, reason in ONLY_F32.items())
    each = ", ".join(f"{sum(goldens[name][1]['dtype'] == dtype for name in low)} in {dtype}" for dtype in TYPES[1:])
    by = ", ".join(dict.fromkeys(maker(goldens[name][1]) for name in low))
    cells = " | ".join(worst(low, goldens, errors))
    return f"| fp16/bf16 of all | {each}: the goldens above with `_f16`, `_bf16` behind their names. No file for {why} | {by} | {cells} |\n"


def main():
    """Writes the page."""
    goldens = {path.stem: check_goldens.read(path) for path in sorted(GOLDENS.glob("*.safetensors"))}
    for _, metadata in goldens.values():
        metadata.setdefault("dtype", "f32")
    known = json.loads((GOLDENS / "errors.json").read_text())
    errors = known["goldens"]
    run = {name for name, (_, metadata) in goldens.items() if metadata["kind"] != "table"}
    if run != set(errors):
        raise ValueError(f"errors.json is of other goldens: {sorted(run ^ set(errors))}; run tests/goldens.rs with GOLDENS_UPDATE=1")
    forward, used = matrix(ROWS, goldens, errors)
    more, others = matrix(MORE, goldens, errors)
    last = low_row(goldens, errors)
    if homeless := set(goldens) - used - others:
        raise ValueError(f"in no row of matrix.py: {sorted(homeless)}")
    parts = [HEAD.replace("{target}", f"`{known['target']}`"), *forward, last]
    parts += ["\n### Beyond the matrix\n\n", *more, FILES]
    parts += [file_row(name, *golden, errors.get(name)) for name, golden in goldens.items()]
    parts.append(f"\n{len(goldens)} files, {sum((GOLDENS / f'{name}.safetensors').stat().st_size for name in goldens)} bytes.\n")
    text = "".join(parts)
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(check_goldens.ROOT)}: {text.count(chr(10))} lines")


if __name__ == "__main__":
    main()
