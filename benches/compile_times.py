#!/usr/bin/env python3
"""Compile times: text to callable machine code, and loading it from the disk cache, for every kernel.

    python3 benches/compile_times.py [--attnc target/release/attnc] [--rounds 5] [--stages] [FOLDER|FILE ...]

Kernels are those of dsl-examples/ unless folders or files are given. Sizes are those that attnc makes up; times are those
of `attnc build --time-passes`, the best of the rounds: a stage that nothing disturbed. `--stages` adds the stages.
"""

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLD, HIT = "text to callable machine code", "loading it from the disk cache"


def files(paths):
    for path in map(pathlib.Path, paths):
        yield from sorted(path.glob("*.attn")) if path.is_dir() else [path]


def kernels(file):
    return re.findall(r"^(?:attention|recurrence)\s+(\w+)", file.read_text(), re.M)


def times(attnc, file, kernel):
    """Milliseconds by stage; a stage that runs several times counts once, with its sum."""
    command = [attnc, "build", file, "--kernel", kernel, "--time-passes", "--emit=schedule"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{file} {kernel}: {done.stderr}")
    found = {}
    for stage, ms in re.findall(r"^\s*(\S.*?)\s{2,}(\d+\.\d+)\s*$", done.stderr, re.M):
        found[stage] = found.get(stage, 0) + float(ms)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", default=[ROOT / "dsl-examples"])
    parser.add_argument("--attnc", default=ROOT / "target/release/attnc")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", action="store_true")
    args = parser.parse_args()
    rows = []
    for file in files(args.paths):
        for kernel in kernels(file):
            rounds = [times(args.attnc, file, kernel) for _ in range(args.rounds)]
            rows.append((min(r[COLD] for r in rounds), min(r[HIT] for r in rounds), f"{file.stem} {kernel}", rounds))
    rows.sort(reverse=True, key=lambda row: row[0])
    print(f"{'kernel':44} {'cold ms':>8} {'hit ms':>8}")
    for cold, hit, name, rounds in rows:
        print(f"{name:44} {cold:8.2f} {hit:8.3f}")
        if args.stages:
            best = min(rounds, key=lambda r: r[COLD])
            print("    " + ", ".join(f"{s} {ms:.2f}" for s, ms in best.items() if s not in (COLD, HIT)))
    over = [name for cold, _, name, _ in rows if cold > 5]
    worst = max(rows, key=lambda row: row[1])
    print(f"{len(rows)} kernels; slowest cold {rows[0][0]:.2f} ms ({rows[0][2]}), slowest hit {worst[1]:.3f} ms ({worst[2]})")
    print(f"above 5 ms: {len(over)}")


if __name__ == "__main__":
    main()
