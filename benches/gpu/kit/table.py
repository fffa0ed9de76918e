"""Tables of results: on a terminal and as Markdown. Standard library only.

Comes in: what run.py wrote. Goes out: lines.
"""

PEAKS = [("H200", 989, 4.8), ("H100 PCIe", 756, 2.0), ("H100", 989, 3.35), ("A100", 312, 2.0)]
"""Dense bf16 TFLOP/s and TB/s of memory, by what a name contains; the first that fits."""


def peak(gpu):
    """(TFLOP/s, TB/s), or nothing for a card that is not known."""
    return next(((f, b) for name, f, b in PEAKS if name in (gpu or "")), (None, None))


def figures(results):
    """A dict for each shape: what was achieved, the share of the peak, the best peer, the ratio to it and to FlexAttention."""
    flops, bandwidth = peak(results["host"].get("gpu"))
    rows = []
    for s in results["shapes"]:
        ours, times = s.get("times", {}).get("attnc"), s.get("times", {})
        others = {name: t["ms"] for name, t in times.items() if name != "attnc"}
        best = min(others, key=others.get, default=None)
        decode = s["kind"] == "decode"
        amount, top, unit = (s["bytes"], bandwidth, "TB/s") if decode else (s["flop"], flops, "TFLOP/s")
        rate = lambda ms: ms and amount / (ms * 1e-3) / 1e12
        ms = ours and ours["ms"]
        row = dict(id=s["id"], ms=ms, rate=rate(ms), unit=unit, share=ms and top and rate(ms) / top, best=best)
        row["best_ms"] = best and others[best]
        row["best_rate"] = rate(row["best_ms"])
        row["over_best"] = ms and best and others[best] / ms
        row["over_flex"] = ms and "FlexAttention" in others and others["FlexAttention"] / ms or None
        row["form"] = s.get("form")
        row["mhz"] = s.get("clocks", {}).get("sm_mhz")
        row["reason"] = s.get("fault") or s.get("reason") or s.get("absent", {}).get("attnc")
        rows.append(row)
    return rows


def text(x, digits=2):
    """A number, or a dash."""
    return "-" if x is None else f"{x:.{digits}f}"


HEADS = ["shape", "attnc ms", "rate", "", "of peak", "form", "best other", "its rate", "/ best", "/ Flex", "SM MHz"]


def cells(r):
    """A row of both tables."""
    share = "-" if r["share"] is None else f"{100 * r['share']:.0f} %"
    digits = 2 if r["unit"] == "TB/s" else 0
    rates = [text(r["rate"], digits), r["unit"], share, r["form"] or "-", r["best"] or "-", text(r["best_rate"], digits)]
    return [r["id"], text(r["ms"], 3), *rates, text(r["over_best"]), text(r["over_flex"]), text(r["mhz"], 0)]


def checked(results):
    """One line about correctness for each target, then the failures."""
    lines = []
    for target in sorted({c["target"] for c in results["checks"]}):
        mine = [c for c in results["checks"] if c["target"] == target]
        skipped = [c for c in mine if c.get("skipped")]
        good = sum(c["ok"] for c in mine)
        more = f", {len(skipped)} not run" if skipped else ""
        with_maps = [c for c in mine if c.get("form") == "mapped"]
        if with_maps:
            more += f"; {sum(c['ok'] for c in with_maps)} of {len(with_maps)} with tensor maps"
        lines.append(f"{target}: {good} of {len(mine)} checks right{more}")
        for c in mine:
            if not c["ok"] and not c.get("skipped"):
                why = c.get("reason") or wrong(c)
                lines.append(f"  FAILED {named(c)}: {why}")
        odd = [named(c) for c in mine if c.get("repeatable") is False]
        if odd:
            lines.append(f"  two runs differ in their bits: {', '.join(odd)}")
        spilled = [named(c) for c in mine if any((e["local_bytes"] or 0) > 0 for e in c.get("entries", {}).values())]
        if spilled:
            lines.append(f"  registers in memory: {', '.join(spilled)}")
    return lines


def named(c):
    """A check, with its form where it has maps."""
    return c["id"] + " (mapped)" * (c.get("form") == "mapped")


def wrong(c):
    """What is wrong with a check that ran."""
    parts = [f"wrote beside {', '.join(c['overrun'])}"] if c.get("overrun") else []
    for name, o in c.get("outputs", {}).items():
        if not o["ok"]:
            parts.append(f"{name}: error {o['max_abs']:.3g}, rel L2 {o['rel_l2']:.3g}, {o['nonfinite']} NaN or infinite")
    return "; ".join(parts) or "no reason given"


def terminal(results):
    """Everything, aligned."""
    rows = [HEADS] + [cells(r) for r in figures(results)]
    widths = [max(len(r[n]) for r in rows) for n in range(len(HEADS))]
    lines = ["  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(r, widths))).rstrip() for r in rows]
    lines += [f"{r['id']}: {r['reason']}" for r in figures(results) if r["ms"] is None and r["reason"]]
    return checked(results) + ([""] + lines if len(rows) > 1 else [])


def markdown(results):
    """The table and what it belongs to."""
    h, k = results["host"], results["kit"]
    versions = f"torch {h.get('torch')}, cuDNN {h.get('cudnn')}, Triton {h.get('triton')}"
    mode = ", --quick" if results["quick"] else ""
    mode += f", --form {results['form']}" if results.get("form") else ""
    copy = f"; a copy moves {results['copy_bytes_per_second'] / 1e12:.2f} TB/s" if results.get("copy_bytes_per_second") else ""
    lines = [f"{h.get('gpu')}, driver {h.get('driver')}, {results['date']}, commit {k['commit']}{mode}; {versions}{copy}.", ""]
    lines += [f"- {line.strip()}" for line in checked(results)] + [""]
    lines += ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    lines += ["| " + " | ".join(cells(r)) + " |" for r in figures(results)]
    missing = [r for r in figures(results) if r["ms"] is None]
    lines += [""] + [f"- {r['id']}: {r['reason']}" for r in missing if r["reason"]]
    return "\n".join(lines).rstrip()
