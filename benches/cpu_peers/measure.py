"""Runs the table: for each case, everybody is made ready and checked, then takes turns. Goes out: the report as one dict.

A round is a turn of attnc, a turn of each other implementation, and the peaks of the machine. Figures are medians over rounds of
medians of calls. Standard library only; numbers are made in the worker processes.
"""

import datetime
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import environment
from cases import TOLERANCE, as_dict
from others import Watch
from peers import FILES
from pool import Process

SCHEMA = 1


def host():
    """What figures belong to."""
    model, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        model = next((x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), model)
    return dict(cpu=model, cores=os.cpu_count(), load=os.getloadavg()[0], system=platform.platform(), python=platform.python_version())


def commit():
    """The commit of the repository, with + if something is changed."""
    def git(*args):
        return subprocess.run(["git", *args], cwd=environment.ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


class Field:
    """The workers of one number of threads. A file whose group is not installed, or that does not load, has a reason instead."""

    def __init__(self, files, threads, folder, groups, wanted):
        self.threads, self.processes, self.missing, self.names, self.versions = threads, {}, {}, {}, {}
        for file, group in files.items():
            process = Process(environment.python(), file, threads, folder, environment.ggml())
            facts = process.ask(do="facts", timeout=300)
            if "failed" in facts:
                process.end()
                self.missing[file] = f"{group} is not installed: {groups[group]}" if groups[group] else facts["failed"]
                continue
            names = [n for n in facts["peers"] if wanted is None or any(w.lower() in n.lower() for w in wanted)]
            self.versions |= {"numpy" if group == "base" else group: facts["peers"][n] for n in names}
            if names:
                self.processes[file], self.names[file] = process, names
            else:
                process.end()

    def prepare(self, case, folder):
        """{name: what came of making it ready}, over all implementations."""
        rows = {}
        for file, process in self.processes.items():
            command = dict(do="prepare", case=as_dict(case), folder=str(folder), threads=self.threads, peers=self.names[file])
            answer = process.ask(**command)
            rows |= answer.get("prepared") or {n: {"failed": answer["failed"]} for n in self.names[file]}
        return rows

    def turn(self, name, budget):
        """A turn of an implementation: {ms, calls} or {failed}."""
        file = next(f for f, names in self.names.items() if name in names)
        return self.processes[file].ask(do="turn", peer=name, budget=budget)

    def end(self):
        """Ends all of them."""
        for process in self.processes.values():
            process.end()


class Bench:
    """One run of the table."""

    def __init__(self, args, ours, groups, say):
        self.args, self.ours, self.groups, self.say = args, ours, groups, say
        self.folder = Path(tempfile.mkdtemp(prefix="attnc-peers-"))
        self.checker = Process(environment.python(), "reference", os.cpu_count(), self.folder)

    def report(self, cases):
        """Runs `cases` with each number of threads."""
        report = dict(schema=SCHEMA, date=datetime.date.today().isoformat(), commit=commit(), attnc=self.ours.version(), host=host(),
                      rounds=self.args.rounds, versions={}, missing={}, cases=[])
        try:
            for threads in self.args.threads:
                field = Field(FILES, threads, self.folder, self.groups, self.args.peers)
                report["versions"] |= field.versions
                report["missing"] |= field.missing
                for file, why in field.missing.items():
                    self.say(f"{file}: left out: {why}")
                try:
                    for n, case in enumerate(cases):
                        self.say(f"[{threads} thread(s), {n + 1}/{len(cases)}] {case.id}")
                        report["cases"].append(self.row(case, field))
                        self.args.done(report)
                finally:
                    field.end()
        finally:
            self.checker.end()
            shutil.rmtree(self.folder, ignore_errors=True)
        return report

    def row(self, case, field):
        """One case with one number of threads."""
        folder = self.folder / case.id
        if not (folder / "ours.safetensors").exists():
            made = self.checker.ask(do="make", case=as_dict(case), folder=str(folder))
            if "failed" in made:
                raise RuntimeError(f"{case.id}: no reference: {made['failed']}")
        row = dict(case=as_dict(case), threads=field.threads, flop=case.flop, cache_bytes=case.cache_bytes)
        row["ours"] = self.checked(case, folder, field.threads)
        row["peers"] = field.prepare(case, folder)
        self.rounds(case, field, folder, row)
        if field.threads == self.args.threads[-1]:
            shutil.rmtree(folder)
        return row

    def checked(self, case, folder, threads):
        """attnc's own entry, after its output was compared with the reference."""
        try:
            out = self.ours.output(case, folder, threads)
        except RuntimeError as error:
            return dict(failed=str(error))
        answer = self.checker.ask(do="check", case=as_dict(case), folder=str(folder), file=str(out))
        if "failed" in answer or not answer["error"] <= TOLERANCE[case.dtype]:
            return dict(failed=answer.get("failed") or f"wrong by {answer['error']:.2g}")
        return dict(error=answer["error"], turns=[], compile_ms=[])

    def rounds(self, case, field, folder, row):
        """Fills the turns of `row` and takes their medians."""
        ours, peaks, live = row["ours"], [], {n: r for n, r in row["peers"].items() if "how" in r}
        for r in live.values():
            r["turns"] = []
        watch = Watch([p.process.pid for p in field.processes.values() if p.process])
        for _ in range(self.args.rounds):
            if "turns" in ours:
                turn = self.ours.turn(case, folder, field.threads)
                ours["turns"].append(turn["ms"])
                ours["compile_ms"].append(turn["compile_ms"])
                if turn["pairs"] not in (None, case.pairs):
                    raise RuntimeError(f"{case.id}: attnc counts {turn['pairs']} pairs, the table {case.pairs}")
            for name, r in live.items():
                if "failed" not in r:
                    turn = field.turn(name, self.args.budget)
                    r["turns"].append(turn["ms"]) if "ms" in turn else r.update(turn)
            peaks.append(self.ours.roofline(field.threads))
        row["others_cores"] = watch.cores()
        row["peak_gflops"], row["read_gb_per_s"] = (statistics.median(x) for x in zip(*peaks))
        for r in [ours, *live.values()]:
            if r.get("turns") and "failed" not in r:
                r["ms"] = statistics.median(r["turns"])
        if "ms" in ours:
            ours["compile_ms"] = statistics.median(ours["compile_ms"])
