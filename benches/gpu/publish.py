"""Writes the table of a run into docs/benchmarks.md, between marker comments. Standard library only."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "kit"))

import table

PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- gpu: begin; written by benches/gpu publish -->", "<!-- gpu: end -->"


def replaced(page, text):
    """The page with other text between the markers."""
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{PAGE} has no lines {BEGIN!r} and {END!r}")
    head, rest = page.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}"


def write(results):
    """Replaces what stands between the markers. Errors: there is nothing to publish."""
    if results.get("schema") != 1:
        raise SystemExit(f"these results have schema {results.get('schema')}, expected 1")
    if not any(s.get("times", {}).get("attnc") for s in results["shapes"]) and not results["checks"]:
        raise SystemExit("nothing was checked or measured in this run; there is nothing to publish")
    PAGE.write_text(replaced(PAGE.read_text(), table.markdown(results)))
