"""attnc's side: every call is a process of its own. Standard library only."""

import json
import os
import subprocess
from pathlib import Path

from cases import SPEC

ROOT = Path(__file__).resolve().parents[2]
RUNS = 3
"""`attnc run` calls in a turn where a mask must come from a file (`attnc bench` makes up all inputs)."""


class Ours:
    """The binary, called without its disk cache, so that compile times are those of a first call."""

    def __init__(self, binary):
        self.binary, self.env = str(binary), {**os.environ, "ATTN_CACHE_MAX": "0"}

    def json(self, *command):
        """The JSON object that a command prints; RuntimeError with what it said otherwise."""
        done = subprocess.run([self.binary, *command, "--json"], cwd=ROOT, env=self.env, capture_output=True, text=True)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise RuntimeError(f"attnc {command[0]}: exit code {done.returncode}: {said[0][:300] if said else ''}") from None

    @staticmethod
    def kernel(case, threads):
        """The arguments that name a case."""
        kernel, dims, params, dtype = case.spec()
        args = [str(SPEC), "--kernel", kernel, "--at", ",".join(f"{k}={v}" for k, v in dims.items()), "--threads", str(threads)]
        for name, value in params.items():
            args += ["--param", f"{name}={value}"]
        return args + ["--dtype", dtype]

    def output(self, case, folder, threads):
        """Runs on the tensors in `folder`; the .safetensors file with the outputs."""
        out = Path(folder) / f"attnc-{threads}.safetensors"
        args = ["run", *self.kernel(case, threads), "--bind", str(Path(folder) / "ours.safetensors"), "-o", f"o={out}"]
        self.json(*args, *(["-o", f"lse={out}"] if case.lse else []))
        return out

    def turn(self, case, folder, threads):
        """One turn: {ms, compile_ms, pairs}, milliseconds a median of calls."""
        if case.kind == "documents":
            doc = ["--bind", f"doc={Path(folder) / 'ours.safetensors'}:doc"]
            many = [self.json("run", *self.kernel(case, threads), *doc, "--random") for _ in range(RUNS)]
            best = sorted(many, key=lambda r: r["run_ms"])[RUNS // 2]
            return dict(ms=best["run_ms"], compile_ms=best["compile_ms"], pairs=best["pairs"])
        r = self.json("bench", *self.kernel(case, threads))
        return dict(ms=r["median_ms"], compile_ms=r["compile_ms"], pairs=r["pairs"])

    def roofline(self, threads):
        """(f32 FMA peak in GFLOP/s, what a plain loop reads from memory in GB/s), measured now."""
        at = "B=1,Hq=32,Hkv=8,Sq=1,Sk=4096,D=128"
        report = self.json("explain", str(SPEC), "--kernel", "causal", "--at", at, "--roofline", "--threads", str(threads))
        return report["roofline"]["gflops"], report["roofline"]["gbs"]

    def version(self):
        """What `attnc --version` says."""
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
