"""attnc against other implementations of attention on this CPU: `python3 benches/cpu_peers`. See README.md in this folder.

Comes in: the repository. It builds attnc, installs the others at pinned versions in target/venv-peers, checks every result against
an f64 reference, and lets all take turns. Goes out: tables on standard output, and JSON in the file that --out names.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True

import cases
import environment
import measure
import publish
import report as reports
from ours import Ours


def arguments():
    """Parses the command line."""
    p = argparse.ArgumentParser(prog="cpu_peers", description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="a few cases, one round")
    p.add_argument("--cases", metavar="GLOB", help="cases by name, globs separated by commas; --list shows them")
    p.add_argument("--peers", metavar="LIST", help="others whose names contain one of these words, separated by commas")
    p.add_argument("--threads", default="1,2", help="thread counts, separated by commas (default 1,2)")
    p.add_argument("--rounds", type=int, help="turns of everybody for each case (default 5; 1 with --quick)")
    p.add_argument("--budget", type=float, default=0.5, help="seconds of a turn of another implementation (default 0.5)")
    p.add_argument("--attnc", type=Path, help="an attnc binary; default: cargo build --release")
    p.add_argument("--out", type=Path, help="write the report as JSON to this path, after every case")
    p.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing; print (and --publish) this report")
    p.add_argument("--chart", type=Path, help="write the chart as SVG to this path")
    p.add_argument("--chart-threads", type=int, help="thread count that the chart shows (default: the largest measured)")
    p.add_argument("--publish", action="store_true", help="write docs/cpu_peers.svg and the table in docs/benchmarks.md")
    p.add_argument("--list", action="store_true", help="print the names of the cases")
    args = p.parse_args()
    try:
        args.threads = [int(n) for n in args.threads.split(",")]
    except ValueError:
        p.error(f"--threads {args.threads}: expected numbers separated by commas")
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.peers = args.peers and args.peers.split(",")
    if args.rounds < 1 or min(args.threads) < 1:
        p.error("--rounds and --threads must be at least 1")
    if not cases.chosen(args.cases, args.quick):
        p.error(f"--cases {args.cases}: no such case; --list shows them")
    return args


def build():
    """Builds attnc in release; the path of the binary."""
    subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "attnc"], cwd=environment.ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", environment.ROOT / "target")) / "release" / "attnc"


def say(line):
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def measured(args):
    """Runs the table; prints each case as it is done."""
    binary = args.attnc.resolve() if args.attnc else build()
    groups = environment.ready(say)
    if groups["base"]:
        sys.exit(f"numpy could not be installed, and the reference needs it: {groups['base']}")
    if os.getloadavg()[0] > 0.5:
        say(f"warning: load {os.getloadavg()[0]:.1f}; something else is running on this machine")

    def done(report):
        print("\n".join(reports.details(report["cases"][-1])), flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n")

    args.done = done
    return measure.Bench(args, Ours(binary), groups, say).report(cases.chosen(args.cases, args.quick))


def loaded(path):
    """A report from a file."""
    report = json.loads(path.read_text())
    if report.get("schema") != measure.SCHEMA:
        sys.exit(f"{path}: schema {report.get('schema')}, expected {measure.SCHEMA}")
    return report


def draw(args, report, path):
    """Draws the chart inside the environment, which has matplotlib."""
    source = args.source or args.out
    if source is None:
        sys.exit("a chart is drawn from a file: give --out or --from")
    environment.ready(say)
    threads = args.chart_threads or max(r["threads"] for r in report["cases"])
    chart = Path(__file__).parent / "chart.py"
    subprocess.run([environment.python(), chart, source.resolve(), path.resolve(), str(threads)], check=True)


def main():
    """Measures or loads, prints, writes."""
    args = arguments()
    if args.list:
        print("\n".join(c.id for c in cases.chosen(args.cases, args.quick)))
        return
    report = loaded(args.source) if args.source else measured(args)
    print("\n" + "\n".join(reports.table(report)))
    if args.chart:
        draw(args, report, args.chart)
    if args.publish:
        draw(args, report, publish.CHART)
        publish.write(report)


if __name__ == "__main__":
    main()
