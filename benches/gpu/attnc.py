"""Calls of attnc. Standard library only.

Comes in: a binary, the LLVM worker. Goes out: packages, JSON. What holds: a call that fails is a `Failed` with the first lines that it said.
"""

import json
import os
import subprocess


class Failed(Exception):
    """What attnc said."""


class Attnc:
    """One binary with its worker."""

    def __init__(self, binary, worker):
        self.binary = str(binary.resolve())
        self.env = dict(os.environ, NO_COLOR="1", ATTN_SCHEDULE="auto")
        if worker:
            self.env["ATTN_LLVM"] = str(worker.resolve())

    def call(self, *words):
        """Standard output of a call."""
        done = subprocess.run([self.binary, *map(str, words)], env=self.env, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise Failed(f"attnc {words[0]}: {' | '.join(said[:4])}"[:600])
        return done.stdout

    def version(self):
        """Its first line about itself."""
        return self.call("--version").splitlines()[0]

    def run(self, file, kernel, dims, params, *more):
        """JSON of `attnc run` on one thread of a CPU."""
        words = ["run", file, "--kernel", kernel, "--json", "--threads", 1, *given("--at", dims), *given("--param", params)]
        return json.loads(self.call(*words, *more))

    def build(self, path, file, kernel, dims, params, dtype, target, optional=()):
        """Writes a package."""
        words = ["build", file, "--kernel", kernel, "--dtype", dtype, "--target", target, "-o", path]
        present = [w for name in optional for w in ("--with", name)]
        self.call(*words, *given("--at", dims), *given("--param", params), *present)


def given(option, fields):
    """`--at B=1,S=2`, or nothing."""
    return [option, ",".join(f"{k}={v}" for k, v in fields.items())] if fields else []
