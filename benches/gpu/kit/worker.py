"""The process that touches the GPU: checks or measures what it is told, one line of JSON for each, on standard output.

Comes in: on standard input one JSON object: what (`probe`, `check`, `shape`), items, target. Goes out: lines `{"stage": what}`, so that
a fault has a name, and `{"id": ..., ...}`. What holds: an item that fails is a line with the reason; after a fault that ends the CUDA context the process ends
with code 3, and whoever started it starts another for what is left.
"""

import json
import os
import sys
import traceback

OUT = 1
"""Where results go."""


def say(fields):
    """One line."""
    os.write(OUT, (json.dumps(fields) + "\n").encode())


def brief(err):
    """The reason, short."""
    text = f"{type(err).__name__}: {err}".strip()
    return text if len(text) < 900 else text[:600] + " ... " + text[-280:]


def probe():
    """What the host is."""
    import torch

    from nvml import Nvml

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    facts = dict(torch=torch.__version__, gpu=torch.cuda.get_device_name(0), capability=list(torch.cuda.get_device_capability(0)))
    facts |= dict(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), driver=Nvml().driver())
    facts["memory_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    try:
        import triton

        facts["triton"] = triton.__version__
    except ImportError:
        facts["triton"] = None
    return facts


class Checks:
    """Gallery kernels against the references that the kit carries."""

    def __init__(self, job):
        import torch

        from ours import Ours

        self.torch, self.target = torch, job["target"]
        torch.zeros(1, device="cuda")
        self.ours = Ours("cuda")

    def item(self, c):
        """Two runs of one check, in the form that it says."""
        import kitfiles
        from gates import compare
        from ours import on_gpu

        held = {name: on_gpu(*fields, "cuda") for name, fields in kitfiles.tensors(c["tensors"]).items()}
        first = self.once(c, held)
        second = self.once(c, held)
        bits = self.torch.uint8
        same = all(self.torch.equal(a.contiguous().view(bits), second[1][name].contiguous().view(bits)) for name, a in first[1].items())
        outputs = {}
        for name, gate in c["reference"].items():
            outputs[name] = compare(first[1][name].cpu(), held[f"ref.{name}"].cpu(), gate)
        run = first[0]
        overrun = run.overrun() + second[0].overrun()
        ok = not overrun and all(found["ok"] for found in outputs.values())
        facts = dict(outputs=outputs, overrun=overrun, repeatable=same, log=run.module.log[:2000], **run.facts())
        if c.get("form") == "mapped" and facts["form"] != "mapped":
            return dict(facts, ok=False, reason=f"was to run with tensor maps, ran as {facts['form']}: {facts['form_reason']}")
        return dict(facts, ok=ok)

    def once(self, c, held):
        """A run on fresh memory, waited for."""
        run = self.ours.bind(c["plans"][self.target], held, c.get("form"))
        run.run()
        self.torch.cuda.synchronize()
        return run, {name: t.clone() for name, t in run.outputs().items()}


class Shapes:
    """Paired timings."""

    def __init__(self, job):
        import torch

        from measure import Clock
        from nvml import Nvml
        from ours import Ours

        self.torch, self.job = torch, job
        torch.zeros(1, device="cuda")
        self.ours, self.clock, self.nvml = Ours("cuda"), Clock(), Nvml()

    def tensors(self, s):
        """q, k, v, and what masks and scores read."""
        torch = self.torch
        g = torch.Generator(device="cuda").manual_seed(11)
        make = lambda h, n: torch.randn((s["b"], h, n, s["d"]), generator=g, device="cuda", dtype=torch.float32).to(torch.bfloat16)
        q, k, v = make(s["hq"], s["sq"]), make(s["hkv"], s["sk"]), make(s["hkv"], s["sk"])
        x = {"slopes": torch.tensor([2.0 ** (-8 * (h + 1) / s["hq"]) for h in range(s["hq"])], device="cuda")}
        x["kv_len"] = torch.full((s["b"],), s["sk"], dtype=torch.int32, device="cuda")
        if s["documents"]:
            n = s["sk"] // s["documents"]
            row = torch.arange(s["sk"], device="cuda", dtype=torch.int32) // n
            x["doc"] = row[None].expand(s["b"], -1).contiguous()
            x["bounds"] = torch.arange(0, s["sk"] + 1, n, device="cuda", dtype=torch.int32)
        return q, k, v, x

    def contenders(self, s, q, k, v, x):
        """Calls of everybody who can, and why the others cannot."""
        from peers import PEERS, Absent

        calls, absent, facts = {}, {}, {}
        skip, faulted = self.job.get("skip", []), self.job.get("faulted")
        left_out = lambda name: "left out after a fault" if name == faulted else "left out"
        if "attnc" in skip:
            absent["attnc"] = left_out("attnc")
        else:
            say(dict(stage="attnc"))
            try:
                run = self.ours.bind(s["plans"][self.job["target"]], {"q": q, "k": k, "v": v, **x}, self.job.get("form"))
                calls["attnc"] = lambda: (run.run(), run.outputs()["o"])[1]
                facts = run.facts()
            except Exception as err:
                absent["attnc"] = brief(err)
        for name, make in PEERS.items():
            try:
                if name in skip:
                    raise Absent(left_out(name))
                say(dict(stage=name))
                calls[name] = make(s, q, k, v, x)
            except Exception as err:
                absent[name] = brief(err) if not isinstance(err, Absent) else str(err)
        return calls, absent, facts

    def item(self, s):
        """One row of the table, or the bandwidth of a copy."""
        from measure import copy_bandwidth, summary

        if s.get("copy"):
            return dict(ok=True, bytes_per_second=copy_bandwidth())
        import reference
        from gates import BF16, compare
        from nvml import Sampler

        torch = self.torch
        q, k, v, x = self.tensors(s)
        calls, absent, facts = self.contenders(s, q, k, v, x)
        truth = reference.dense(s, q, k, v, x)
        errors = {}
        for name in list(calls):
            say(dict(stage=name))
            try:
                found = calls[name]()
                torch.cuda.synchronize()
                errors[name] = compare(reference.picked(s, found).cpu(), truth.cpu(), BF16)
                if not errors[name]["ok"]:
                    absent[name] = f"wrong: {errors[name]}"
            except Exception as err:
                absent[name] = brief(err)
                torch.cuda.synchronize()  # A broken context ends the process here.
            if name in absent:
                del calls[name]
        taken = {}
        say(dict(stage="turns"))
        with Sampler(self.nvml) as sampler:
            if calls:
                taken = self.clock.race(calls, self.job["seconds"])
        rows = {name: dict(summary(ms), **{f"error_{key}": errors[name][key] for key in ("max_abs", "rel_l2")}) for name, ms in taken.items()}
        del q, k, v, x, calls
        torch.cuda.empty_cache()
        return dict(ok="attnc" in rows, times=rows, absent=absent, clocks=sampler.summary(), **facts)


def survives():
    """Whether the CUDA context is whole."""
    import torch

    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except Exception:
        return False
    return True


def main():
    """Does the job."""
    global OUT
    OUT = os.dup(1)
    os.dup2(2, 1)  # What libraries print is no result.
    job = json.load(sys.stdin)
    if job["what"] == "probe":
        say(dict(probe(), id="probe"))
        return
    doer = dict(check=Checks, shape=Shapes)[job["what"]](job)
    for item in job["items"]:
        say(dict(stage=item["id"]))
        try:
            found = doer.item(item)
        except Exception as err:
            traceback.print_exc()
            found = dict(ok=False, reason=brief(err))
        say(dict(found, id=item["id"]))
        if not survives():
            sys.exit(3)


if __name__ == "__main__":
    main()
