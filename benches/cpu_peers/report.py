"""Figures and tables from a report. Standard library only; nothing here measures.

A ratio is the time of another implementation over the time of attnc: above 1 attnc is the faster one.
"""

import copy
import math
import statistics
import textwrap

from cases import from_dict
from others import DISTURBED

FLEX = "FlexAttention"
MODIFIED = ("window", "alibi", "softcap", "t5", "documents")
"""Kinds for which implementations with fixed masks need workarounds."""


def timed(row):
    """{name: entry} of the implementations with a time."""
    return {n: r for n, r in row["peers"].items() if "ms" in r}


def best(row, how=None):
    """(name, ms) of the fastest other implementation, `how` native or workaround or either; None if there is none."""
    found = [(r["ms"], n) for n, r in timed(row).items() if how in (None, r["how"])]
    return (min(found)[1], min(found)[0]) if found else None


def level(report):
    """Puts the median over the run, for each number of threads, in place of each row's own peaks: single samples are unsteady."""
    for key in ("peak_gflops", "read_gb_per_s"):
        for threads in {r["threads"] for r in report["cases"]}:
            rows = [r for r in report["cases"] if r["threads"] == threads]
            middle = statistics.median(r[key] for r in rows)
            for r in rows:
                r[key] = middle
    return report


def disturbed(row, leveled):
    """True if something else was running: others used the cores, or the peak beside the row was far below that of the run."""
    return (row.get("others_cores") or 0) > DISTURBED or row["peak_gflops"] < 0.75 * leveled["peak_gflops"]


def all_figures(report):
    """`figures` of every row, shares by the peaks of the whole run; the names of disturbed rows end with a star."""
    rows = []
    for raw, row in zip(report["cases"], level(copy.deepcopy(report))["cases"]):
        noisy = disturbed(raw, row)
        rows.append(dict(figures(row), disturbed=noisy))
        rows[-1]["id"] += " *" * noisy
    return rows


def figures(row):
    """What tables say about a row; None where something has no time."""
    case, ours = from_dict(row["case"]), row["ours"].get("ms")
    fastest, around = best(row), best(row, "workaround") if row["case"]["kind"] in MODIFIED else None
    flex = timed(row).get(FLEX)
    over = lambda ms: ms / ours if ms and ours else None
    gflops = row["flop"] / ours / 1e6 if ours else None
    share = share_of(row, ours) if ours else None
    name, ms = fastest or (None, None)
    return dict(
        id=case.id, kind=case.kind, threads=row["threads"], ms=ours, gflops=gflops, share=share, best=name, best_ms=ms, over_best=over(ms),
        over_flex=over(flex and flex["ms"]), around=around and around[0], over_around=over(around and around[1]),
        compile_ms=row["ours"].get("compile_ms"), flex_first_ms=flex and flex["first_ms"],
    )


def share_of(row, ms):
    """The part of the machine's peak that a time in milliseconds means: of reading in decode steps, else of the f32 FMA peak."""
    if row["case"]["kind"] == "decode":
        return row["cache_bytes"] / ms / 1e6 / row["read_gb_per_s"]
    return row["flop"] / ms / 1e6 / row["peak_gflops"]


def geometric(values):
    """Geometric mean of what is not None; None of nothing."""
    values = [x for x in values if x]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def text(x, digits=2):
    """A number with so many decimals, or -."""
    return "-" if x is None else f"{x:.{digits}f}"


def percent(x):
    """A share as a percentage, or -."""
    return "-" if x is None else f"{100 * x:.0f} %"


def details(row):
    """Lines about a row: every implementation with its time, work, error and first call; then who is missing and why."""
    case = from_dict(row["case"])
    lines = [f"{case.id}, {row['threads']} thread(s): peak {row['peak_gflops']:.0f} GFLOP/s, read {row['read_gb_per_s']:.1f} GB/s"]
    if (row.get("others_cores") or 0) > DISTURBED:
        lines.append(f"  disturbed: others used {row['others_cores']:.1f} cores meanwhile")
    ours = row["ours"]
    lines.append(f"  {'':28}{'ms':>10}{'GFLOP/s':>10}{'share':>9}{'/ attnc':>9}{'error':>10}{'first call ms':>15}")
    entries = {"attnc": dict(ours, how="native", first_ms=ours.get("compile_ms"))} | timed(row)
    for name, r in sorted(entries.items(), key=lambda x: x[1].get("ms") or math.inf):
        if "ms" not in r:
            lines.append(f"  {name:28}failed: {r.get('failed')}")
            continue
        gflops, mark = row["flop"] / r["ms"] / 1e6, " (w)" if r["how"] == "workaround" else ""
        share = percent(share_of(row, r["ms"]))
        ratio = r["ms"] / ours["ms"] if "ms" in ours else None
        lines.append(f"  {name + mark:28}{r['ms']:10.2f}{gflops:10.1f}{share:>9}{text(ratio):>9}{r['error']:10.1e}{r['first_ms']:15.1f}")
    lines += [f"  {name:28}failed: {r['failed']}" for name, r in row["peers"].items() if "failed" in r]
    refused = "; ".join(f"{name} ({r['refused']})" for name, r in row["peers"].items() if "refused" in r)
    return lines + textwrap.wrap(f"not run: {refused}", 120, initial_indent="  ", subsequent_indent="    ") * bool(refused)


def table(report):
    """Lines: one for each row, then the geometric means, the worst case, and how cost grows with a window."""
    rows = all_figures(report)
    head = ["case", "thr", "ms", "GFLOP/s", "share", "best other", "ms", "/ best", "/ Flex", "/ workaround", "compile ms", "Flex first ms"]
    cells = [[r["id"], str(r["threads"]), text(r["ms"]), text(r["gflops"], 0), percent(r["share"]), r["best"] or "-", text(r["best_ms"]),
              text(r["over_best"]), text(r["over_flex"]), text(r["over_around"]), text(r["compile_ms"], 1), text(r["flex_first_ms"], 0)]
             for r in rows]
    widths = [max(len(line[n]) for line in [head, *cells]) for n in range(len(head))]
    align = lambda line: "  ".join(x.ljust(w) if n in (0, 5) else x.rjust(w) for n, (x, w) in enumerate(zip(line, widths)))
    return [align(head), *map(align, cells), "", *summary(report)]


def summary(report):
    """Sentences about a whole report."""
    rows = all_figures(report)
    lines = []
    for key, what in (("over_best", "the best other"), ("over_flex", "FlexAttention"), ("over_around", "the best workaround")):
        known = [r for r in rows if r[key]]
        if known:
            least = min(known, key=lambda r: r[key])
            lines.append(f"over {what}: geometric mean {geometric(r[key] for r in known):.2f} of {len(known)}; "
                         f"worst {least[key]:.2f} ({least['id']}, {least['threads']} thread(s))")
    lines += growth(report)
    noisy = sum(r["disturbed"] for r in rows)
    if noisy:
        lines.append(f"something else was running during {noisy} of {len(rows)} rows (*): their times are too long, their ratios unsteady")
    failed = [r for r in report["cases"] if "failed" in r["ours"]]
    lines += [f"attnc failed: {r['case']['id']}, {r['threads']} thread(s): {r['ours']['failed']}" for r in failed]
    return lines


def growth(report):
    """How much more a window costs at twice the length: 2 is linear, 4 is dense."""
    ms = {(r["case"]["sq"], r["threads"]): r["ours"].get("ms") for r in report["cases"] if r["case"]["kind"] == "window"}
    pairs = [(n, t) for n, t in sorted(ms) if ms[n, t] and ms.get((2 * n, t))]
    return [f"window, {2 * n} keys over {n}, {t} thread(s): {ms[2 * n, t] / ms[n, t]:.2f} times the time (2 is linear)" for n, t in pairs]
