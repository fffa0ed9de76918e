"""A kit that is built here and runs on a GPU host that has only Python with torch: `python3 benches/gpu`. See README.md.

Comes in: attnc with its LLVM worker (build), results of a run (publish). Goes out: a folder; a table in docs/benchmarks.md.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import build
import publish


def arguments():
    """Parses the command line."""
    p = argparse.ArgumentParser(prog="python3 benches/gpu", description=__doc__.splitlines()[0])
    verbs = p.add_subparsers(dest="verb", required=True)
    b = verbs.add_parser("build", help="compile everything and write the kit")
    b.add_argument("--attnc", type=Path, required=True, help="an attnc binary")
    b.add_argument("--worker", type=Path, help="its LLVM worker attnc-llvm; default: ATTN_LLVM, or what attnc finds")
    b.add_argument("--out", type=Path, default=Path("target/gpu_kit"), help="the folder (default target/gpu_kit); an older kit there is replaced")
    b.add_argument("--targets", type=lambda t: t.split(","), default=build.TARGETS, help="default sm_80,sm_90a")
    b.add_argument("--only", metavar="WORDS", help="checks and shapes whose names contain one of these words, separated by commas")
    b.add_argument("--jobs", type=int, default=2, help="calls of attnc at a time (default 2)")
    b.add_argument("--simulate", action="store_true", help="also run every check in attnc's simulator, and compare its launches (slow)")
    w = verbs.add_parser("publish", help="write the table of a run into docs/benchmarks.md")
    w.add_argument("results", type=Path, help="what run.py --out wrote")
    return p.parse_args()


def main():
    """Does one of both."""
    args = arguments()
    if args.verb == "publish":
        publish.write(json.loads(args.results.read_text()))
        return
    manifest = build.build(args, lambda line: print(line, file=sys.stderr, flush=True))
    if not manifest["checks"] and not manifest["shapes"]:
        sys.exit("nothing was built")


if __name__ == "__main__":
    main()
