"""Workers and what becomes of their items. Standard library only.

Comes in: items, a time limit for each and for all. Goes out: a result for every item: the worker's, or why there is none. What holds:
a worker that dies, hangs or loses its GPU costs the item it was at, never the others.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MOST_RESTARTS = 12


class Worker:
    """One process and its lines."""

    def __init__(self, job, program):
        self.errors = tempfile.TemporaryFile("w+")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.process = subprocess.Popen(program, **pipes, start_new_session=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.feed, args=(json.dumps(job),), daemon=True).start()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def feed(self, text):
        """The job; a worker that is already dead takes none."""
        try:
            with self.process.stdin:
                self.process.stdin.write(text)
        except BrokenPipeError:
            pass

    def read(self):
        """Lines until the end, then none."""
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def line(self, seconds):
        """The next one, none at the end; `Empty` after so long. Children of a dead worker (compilers) may keep its pipe open."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.lines.get(timeout=max(0.01, min(0.5, end - time.monotonic())))
            except queue.Empty:
                if self.process.poll() is not None:
                    return None
                if time.monotonic() >= end:
                    raise

    def stop(self):
        """Ends it with its children; the last lines that it said."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.reader.join(2)
        self.errors.seek(0)
        return " | ".join(self.errors.read().strip().splitlines()[-3:])[-500:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        if not self.reader.is_alive():
            self.process.stdout.close()
        self.errors.close()


def work(job, items, limit, deadline, done, program=None, again=None):
    """Calls `done(id, result)` once for every item.

    `limit` is the most seconds between two lines; after `deadline` (of `time.monotonic`) what is left is skipped. `again(item, result)`
    may give other job fields with which an item that ended its worker is tried once more; `result["stage"]` is what it was at.
    """
    program = program or [sys.executable, str(HERE / "worker.py")]
    left, restarts = list(items), 0
    while left:
        if time.monotonic() >= deadline or restarts > MOST_RESTARTS:
            why = "no time left" if time.monotonic() >= deadline else f"the worker died {restarts} times"
            for item in left:
                done(item["id"], dict(ok=False, skipped=True, reason=why))
            return
        n_done, reason, stage = attempt(dict(job, items=left), limit, deadline, done, program)
        if reason is not None and n_done < len(left):
            item, fault = left[n_done], dict(ok=False, reason=reason, stage=stage, skipped=time.monotonic() >= deadline)
            more = again(item, fault) if again and not fault["skipped"] else None
            if more is None:
                done(item["id"], fault)
            else:
                second = lambda id, found: done(id, dict(found, fault=reason))
                work(dict(job, **more), [item], limit, deadline, second, program)
            n_done += 1
        left = left[n_done:]
        restarts += 1


def attempt(job, limit, deadline, done, program):
    """One worker: how many items it finished, why it ended before the rest, if it did, and what it was at."""
    n_done, stage = 0, "the start"
    with Worker(job, program) as worker:
        while n_done < len(job["items"]):
            try:
                line = worker.line(min(limit, deadline - time.monotonic()))
            except queue.Empty:
                said = worker.stop()
                late = time.monotonic() >= deadline
                return n_done, "no time left" if late else f"it hung for {limit:.0f} s at {stage}: {said}", stage
            if line is None:
                code = worker.process.wait()
                why = None if code == 3 else f"the worker ended with code {code} at {stage}: {worker.stop()}"
                return n_done, why, stage
            if "stage" in line:
                stage = line["stage"]
            else:
                done(line.pop("id"), line)
                n_done += 1
    return n_done, None, stage


def single(job, seconds, program=None):
    """The one line of a job without items. Errors: `RuntimeError`."""
    with Worker(job, program or [sys.executable, str(HERE / "worker.py")]) as worker:
        try:
            line = worker.line(seconds)
        except queue.Empty:
            raise RuntimeError(f"no answer in {seconds:.0f} s: {worker.stop()}") from None
        if line is None:
            raise RuntimeError(worker.stop() or "the worker said nothing")
        return line
