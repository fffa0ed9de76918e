"""Worker processes seen from the parent: started, asked, stopped between their turns, replaced when they die. Standard library."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
REST_S = 0.05
"""Threads get this long to fall asleep before the process is stopped."""


def die_with_parent():
    """Linux: a worker, stopped or not, is killed when the parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def environment(threads, folder, ggml):
    """Variables of a worker: every library's way of being told how many threads it has; caches of compilers are new."""
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "ATTNC_PEERS_THREADS"]
    env = {**os.environ, **{n: str(threads) for n in names}, "ATTNC_PEERS_GGML": str(ggml), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / f"inductor-{threads}"), "CUDA_VISIBLE_DEVICES": ""}
    return env


class Process:
    """One worker. `ask` gives its answer, or {"failed": why}; after a failure of the process the next question starts a new one."""

    def __init__(self, python, file, threads, folder, ggml=""):
        self.command = [str(python), str(HERE / "worker.py"), file]
        self.env, self.log, self.process = environment(threads, folder, ggml), folder / f"{file}-{threads}.log", None

    def start(self):
        """Starts it."""
        with open(self.log, "ab") as log:
            options = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
            self.process = subprocess.Popen(self.command, env=self.env, preexec_fn=die_with_parent, **options)

    def ask(self, timeout=600, **command):
        """Sends a command and waits for the answer."""
        if self.process is None:
            self.start()
        else:
            self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            line = self.answer(timeout)
        except OSError:
            line = ""
        if not line.endswith("\n"):
            return {"failed": self.buried(timeout)}
        time.sleep(REST_S)
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)

    def answer(self, timeout):
        """A line, or less if the process ended or took longer than `timeout` seconds."""
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            return ""
        return self.process.stdout.readline()

    def buried(self, timeout):
        """Ends what is left of the process; says what happened."""
        code = self.process.poll()
        self.end()
        tail = self.log.read_text(errors="replace").splitlines()[-1:] if self.log.exists() else []
        ended = f"no answer in {timeout} s" if code is None else f"process ended with {code}"
        return f"{ended}: {' '.join(tail)[:200]}"

    def end(self):
        """Kills the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
