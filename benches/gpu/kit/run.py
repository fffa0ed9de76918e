"""Checks and measures attnc's kernels on this host's GPU: `python3 kit/run.py --out results.json`.

Comes in: the kit beside this file, made by `python3 benches/gpu build`; a host with an NVIDIA GPU, its driver and torch. No network, no
compiler. Goes out: JSON (written after every result), a Markdown table beside it, tables on standard output. Exit code 0 if everything
that ran was right, 3 if something was wrong, 1 if nothing could run.
"""

import argparse
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import kitfiles
import maps
import supervise
import table

BUDGET = dict(quick=110, full=560)
"""Seconds of all."""
COPY = "copy"
CONTENDERS = ("attnc", "SDPA cuDNN", "SDPA flash", "torch flash", "FlexAttention", "Triton")
FLEX_IN_QUICK = ("window", "documents", "softcap")
"""Kinds at which FlexAttention is worth its compilation with --quick."""
FOR_CHECKS = 0.45
"""Share of the time that checks may take."""


def arguments():
    """Parses the command line."""
    p = argparse.ArgumentParser(prog="run.py", description=__doc__.splitlines()[0])
    p.add_argument("--quick", action="store_true", help="a few checks and shapes, under two minutes")
    p.add_argument("--out", type=Path, default=Path("results.json"), help="JSON; a table is written beside it as .md")
    p.add_argument("--budget", type=float, help=f"seconds of all (default {BUDGET['full']}, {BUDGET['quick']} with --quick)")
    p.add_argument("--only", metavar="WORDS", help="checks and shapes whose names contain one of these words, separated by commas")
    p.add_argument("--targets", type=lambda t: t.split(","), help="default: all of the kit that run here; the first is measured")
    p.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 2) // 2)), help="processes that check (default up to 4)")
    p.add_argument("--skip", choices=["checks", "shapes"], action="append", default=[], help="leave a part out")
    p.add_argument("--form", choices=maps.FORMS, help="of kernels that have two; default: both are checked, the one that attnc takes is measured")
    p.add_argument("--no-flex", action="store_true", help="without FlexAttention, which compiles for seconds at every shape")
    args = p.parse_args()
    args.budget = args.budget or BUDGET["quick" if args.quick else "full"]
    return args


class Session:
    """Results as they come."""

    def __init__(self, args, kit):
        self.args, self.kit, self.lock = args, kit, threading.Lock()
        self.start = time.monotonic()
        self.end = self.start + args.budget
        facts = {key: kit[key] for key in ("attnc", "commit", "date", "left_out")}
        self.results = dict(schema=1, kit=facts, host={}, quick=args.quick, form=args.form, date=time.strftime("%Y-%m-%d"))
        self.results |= dict(checks=[], shapes=[])

    def say(self, line):
        """Progress, on standard error."""
        print(f"[{time.monotonic() - self.start:5.1f} s] {line}", file=sys.stderr, flush=True)

    def save(self):
        """What there is."""
        self.results["seconds"] = round(time.monotonic() - self.start, 1)
        partial = self.args.out.with_name(self.args.out.name + ".part")
        partial.write_text(json.dumps(self.results, indent=1) + "\n")
        partial.replace(self.args.out)

    def wanted(self, items):
        """By --quick and --only."""
        words = self.args.only and self.args.only.split(",")
        chosen = [i for i in items if (words or i["quick"] or not self.args.quick)]
        return [i for i in chosen if not words or any(w in i["id"] for w in words)]

    def probe(self):
        """The host and the targets."""
        self.results["host"] = supervise.single(dict(what="probe"), 120)
        host = self.results["host"]
        self.say(f"{host['gpu']}, driver {host['driver']}, torch {host['torch']}")
        fits = kitfiles.usable(self.kit["targets"], host["capability"])
        targets = [t for t in self.args.targets or fits if t in fits]
        if not targets:
            raise RuntimeError(f"the kit is for {', '.join(self.kit['targets'])}; this GPU has capability {host['capability']}")
        return targets

    def in_forms(self, items, target):
        """An item for each form of each check. Its id names the form, so that a fault of one costs the other nothing."""
        out = []
        for c in items:
            forms = maps.choices(c["plans"][target]["plan"])
            asked = [self.args.form] if self.args.form in forms else forms
            out += [dict(c, id=f"{c['id']}/{form}", form=form) for form in asked]
        return out

    def check(self, targets):
        """Every wanted check on every target, in each form, the first target before the others."""
        deadline = self.start + (self.end - self.start) * (FOR_CHECKS if "shapes" not in self.args.skip else 1)
        for target in targets[:1] if self.args.quick else targets:
            items = self.in_forms([c for c in self.wanted(self.kit["checks"]) if target in c["plans"]], target)

            def done(id, found, target=target):
                name, form = id.rsplit("/", 1)
                with self.lock:
                    self.results["checks"].append(dict(dict(form=form), **dict(found, id=name, target=target)))
                    if not found["ok"]:
                        self.say(f"{target} {id}: {found.get('reason') or table.wrong(found)}")
                    self.save()

            hands = max(1, min(self.args.jobs, len(items)))
            with ThreadPoolExecutor(hands) as pool:
                job = dict(what="check", target=target)
                parts = [items[n::hands] for n in range(hands)]
                list(pool.map(lambda part: supervise.work(job, part, 60, deadline, done), parts))
            good = sum(c["ok"] for c in self.results["checks"] if c["target"] == target)
            self.say(f"{target}: {good} of {len(items)} checks right")

    def measure(self, target):
        """Every wanted shape, one after the other."""
        items = [s for s in self.wanted(self.kit["shapes"]) if target in s["plans"]]
        if self.args.quick:
            items = [dict(s, flex=s["flex"] and s["kind"] in FLEX_IN_QUICK) for s in items]
        held = {s["id"]: {key: value for key, value in s.items() if key != "plans"} for s in items}

        def done(id, found):
            if id == COPY:
                self.results["copy_bytes_per_second"] = found.get("bytes_per_second")
                self.say(f"a copy: {found}")
                return
            self.results["shapes"].append(dict(held[id], **found, target=target))
            row = table.figures(dict(self.results, shapes=self.results["shapes"][-1:]))[0]
            self.say("  ".join(table.cells(row)) + (f"  {row['reason']}" if row["reason"] else ""))
            self.save()

        job = dict(what="shape", target=target, seconds=0.6 if self.args.quick else 1.0, form=self.args.form)
        job["skip"] = ["FlexAttention"] if self.args.no_flex else []

        def again(item, fault):
            at = fault["stage"] if fault["stage"] in CONTENDERS else "attnc"
            return None if item["id"] == COPY else dict(skip=[*job["skip"], at], faulted=at)

        supervise.work(job, [dict(id=COPY, copy=True), *items], 120, self.end, done, again=again)

    def finish(self):
        """Tables; the exit code."""
        self.save()
        self.args.out.with_suffix(".md").write_text(table.markdown(self.results) + "\n")
        print("\n".join(table.terminal(self.results)))
        self.say(f"wrote {self.args.out} and {self.args.out.with_suffix('.md')}")
        ran = [x for x in self.results["checks"] + self.results["shapes"] if not x.get("skipped")]
        return 1 if not ran else 3 if not all(x["ok"] for x in ran) else 0


def main():
    """All of it."""
    args = arguments()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    session = Session(args, kitfiles.manifest())
    try:
        targets = session.probe()
    except RuntimeError as err:
        session.results["reason"] = str(err)
        session.save()
        sys.exit(f"nothing can run here: {err}")
    if "checks" not in args.skip:
        session.check(targets)
    if "shapes" not in args.skip:
        session.measure(targets[0])
    sys.exit(session.finish())


if __name__ == "__main__":
    main()
