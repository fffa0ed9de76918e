"""Writes the figures of a report into docs/benchmarks.md, between marker comments. Standard library only."""

from environment import ROOT
from report import all_figures, geometric, percent, summary, text

PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "cpu_peers.svg"
BEGIN, END = "<!-- cpu_peers: begin; written by benches/cpu_peers --publish -->", "<!-- cpu_peers: end -->"


def markdown(report):
    """The table and what it belongs to, as Markdown."""
    h, versions = report["host"], report["versions"]
    libraries = ", ".join(f"{n} {v}" for n, v in sorted(versions.items()))
    rounds = f"{report['rounds']} round{'s' if report['rounds'] > 1 else ''}"
    lines = [f"{h['cpu']}, {h['cores']} cores, {report['date']}, commit {report['commit']}, {rounds}; {libraries}.", ""]
    heads = ["case", "threads", "attnc ms", "GFLOP/s", "share", "best other", "its ms", "/ best", "/ Flex", "/ workaround"]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    rows = all_figures(report)
    for r in rows:
        cells = [r["id"], str(r["threads"]), text(r["ms"]), text(r["gflops"], 0), percent(r["share"]), r["best"] or "-", text(r["best_ms"])]
        lines.append("| " + " | ".join([*cells, text(r["over_best"]), text(r["over_flex"]), text(r["over_around"])]) + " |")
    ours, flex = (geometric(r[key] for r in rows) for key in ("compile_ms", "flex_first_ms"))
    lines += ["", *(f"- {line[0].upper()}{line[1:]}." for line in summary(report))]
    if ours and flex:
        lines.append(f"- What a first call costs above a later one, geometric mean: attnc {ours:.1f} ms, FlexAttention {flex / 1e3:.1f} s.")
    return "\n".join(lines)


def write(report):
    """Replaces what stands between the markers."""
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{PAGE} has no lines {BEGIN!r} and {END!r}")
    head, rest = page.split(BEGIN, 1)
    PAGE.write_text(f"{head}{BEGIN}\n\n{markdown(report)}\n\n{END}{rest.split(END, 1)[1]}")
