"""The chart of a report, as SVG: one bar for each case, how many times as fast as the best other implementation. Needs matplotlib."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from report import all_figures

INK, GRID, OURS, SLOWER, FLEX, AROUND = "#7d8590", "#7d859040", "#2f81f7", "#da3633", "#d29922", "#8957e5"
"""Greys and hues that read on white and on black; the background is left transparent."""


def draw(report, path, threads):
    """Writes the chart of the rows with so many threads."""
    rows = [r for r in all_figures(report) if r["threads"] == threads]
    rows = [r for r in rows if r["over_best"]][::-1]
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "attnc", "font.family": "sans-serif", "font.size": 10, "text.color": INK})
    fig, ax = plt.subplots(figsize=(9, 1.1 + 0.3 * len(rows)))
    over = [r["over_best"] for r in rows]
    colors = [OURS if x >= 1 else SLOWER for x in over]
    ax.barh(range(len(rows)), [x - 1 for x in over], left=1, color=colors, height=0.62, zorder=2)
    ax.barh([0], [0], left=1, color=OURS, label="attnc over the best other (named)")
    marks = [("over_flex", FLEX, "D", "attnc over FlexAttention"), ("over_around", AROUND, "o", "attnc over the best workaround")]
    for key, color, marker, label in marks:
        at = [(r[key], y) for y, r in enumerate(rows) if r[key]]
        if at:
            ax.scatter(*zip(*at), color=color, marker=marker, s=22, label=label, zorder=3)
    for y, r in enumerate(rows):
        ax.text(1.0, y, f"  {r['over_best']:.1f}x {r['best']}", va="center", ha="left", fontsize=8, transform=ax.get_yaxis_transform())
    ax.axvline(1, color=INK, linewidth=1, zorder=1)
    ax.set_xscale("log")
    marked = [r[key] for r in rows for key in ("over_best", "over_flex", "over_around") if r[key]]
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64) if min(marked) / 2 < t <= 1.3 * max(marked)]
    ax.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(rows)), [r["id"] for r in rows])
    ax.set_xlabel(f"times as fast, {threads} thread{'s' if threads > 1 else ''}, {report['host']['cpu']}, {report['date']}", color=INK)
    ax.tick_params(colors=INK, length=0)
    ax.grid(axis="x", color=GRID, zorder=0)
    ax.margins(y=0.01)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=INK, bbox_to_anchor=(1, 1), ncols=3)
    fig.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], int(sys.argv[3]))
