"""A process for the implementations of one file: `python worker.py FILE`. Commands and answers are lines of JSON.

`reference` in place of FILE makes tensors and checks results. The parent stops the process (SIGSTOP) between its turns, so threads
that spin after a call disturb nobody.
"""

import importlib
import json
import os
import statistics
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
WARM_S = 0.1
"""A turn is not measured until it has run this long."""


def elapsed_ms(f):
    """(result, milliseconds) of a call."""
    start = time.perf_counter()
    result = f()
    return result, (time.perf_counter() - start) * 1e3


def last_line(error):
    """One line that tells what went wrong."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Worker:
    """Holds what was prepared for the case at hand."""

    def __init__(self, file):
        self.calls = {}
        self.peers = {} if file == "reference" else {p.name: p for p in importlib.import_module(f"peers.{file}").PEERS}

    def facts(self, _):
        """Names and versions."""
        return {"peers": {name: p.version() for name, p in self.peers.items()}}

    def make(self, command):
        """Tensors and reference of a case, written to its folder."""
        import cases
        import tensors

        tensors.write(cases.from_dict(command["case"]), Path(command["folder"]))
        return {}

    def check(self, command):
        """Largest error of the outputs in a .safetensors file."""
        import cases
        import tensors

        found = tensors.load_safetensors(command["file"])
        return {"error": tensors.error(cases.from_dict(command["case"]), command["folder"], found["o"], found.get("lse"))}

    def prepare(self, command):
        """Makes every implementation ready for a case; {name: {refused} or {failed} or {how, error, first_ms}}."""
        import cases
        import tensors

        self.calls.clear()
        case = cases.from_dict(command["case"])
        t = tensors.read(command["folder"])
        out = {}
        for name in command["peers"]:
            try:
                out[name] = self.ready(self.peers[name], case, t, command)
            except Exception as error:
                traceback.print_exc()
                out[name] = {"failed": last_line(error)}
        return {"prepared": out}

    def ready(self, peer, case, t, command):
        """One of them: prepared, called, checked. `first_ms` is what the first call costs above a later one."""
        import tensors
        from cases import TOLERANCE

        how = peer.can(case) if peer.by_token or not case.by_token else "takes heads one after the other only"
        if how not in ("native", "workaround"):
            return {"refused": str(how)}
        call, ready_ms = elapsed_ms(lambda: peer.prepare(case, t, command["threads"]))
        result, first_ms = elapsed_ms(call.run)
        o, lse = call.fetch(result)
        error = tensors.error(case, command["folder"], o, lse)
        allowed = TOLERANCE[case.dtype]
        if not error <= allowed:
            return {"failed": f"wrong by {error:.2g}, allowed {allowed:.2g}", "error": None if error == float("inf") else error}
        _, later_ms = elapsed_ms(call.run)
        self.calls[peer.name] = call
        return dict(how=how, error=error, first_ms=max(ready_ms + first_ms - later_ms, 0.0))

    def turn(self, command):
        """Milliseconds (median) of calls within a budget of seconds, after a warm-up."""
        call = self.calls.get(command["peer"])
        if call is None:
            raise RuntimeError("its process was replaced during this case")
        if call.reset:
            call.reset()
        start = time.perf_counter()
        n, times = 1, [elapsed_ms(call.run)[1]]
        while time.perf_counter() - start < WARM_S and n < call.most // 4:
            times, n = [elapsed_ms(call.run)[1]], n + 1
        if times[0] < 1e3 * command["budget"]:
            times = []
        start = time.perf_counter()
        while not times or (time.perf_counter() - start < command["budget"] and n < call.most):
            times.append(elapsed_ms(call.run)[1])
            n += 1
        return {"ms": statistics.median(times), "calls": len(times)}


def serve(file):
    """Answers commands until the input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            worker = worker or Worker(file)
            answer = getattr(worker, command["do"])(command)
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": last_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
