"""Every line of the worker but the GPU's: torch's CPU takes the place of CUDA. Nothing is computed by attnc here."""

import contextlib
import gzip
import json
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from tests import samples

import shapes
import tensors
from driver import Driver

try:
    import torch
    from torch.overrides import TorchFunctionMode
except ImportError:
    torch, TorchFunctionMode = None, object


class OnCpu(TorchFunctionMode):
    """What is asked for on a GPU lies on the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*["cpu" if a == "cuda" and type(a) is str else a for a in args], **kwargs)


class Event:
    """A clock of the host."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return max(1e-6, (other.at - self.at) * 1e3)


@contextlib.contextmanager
def cpu():
    """See the head of this file."""
    make = torch.Generator
    calls = dict(Event=Event, synchronize=lambda: None, empty_cache=lambda: None)
    with OnCpu(), mock.patch.multiple(torch.cuda, **calls), mock.patch.object(torch, "Generator", lambda device=None: make()):
        with mock.patch("measure.FLUSH_BYTES", 1024):
            yield


def made_plan(s):
    """A plan of one launch, and its PTX."""
    tensor = lambda name, role, h, n: dict(
        name=name, role=role, dtype="bf16", shape=[s.b, h, n, s.d], strides=[h * n * s.d, n * s.d, s.d, 1], bytes=2 * s.b * h * n * s.d
    )
    entries = [tensor("q", "input", s.hq, s.sq), tensor("k", "input", s.hkv, s.sk), tensor("v", "input", s.hkv, s.sk)]
    launch = dict(name="attend", kernel="attn_attend", tasks=3, threads=128, shared_bytes=0, persistent=False, words=[[0], [1], [2], [3]])
    return dict(tensors=[*entries, tensor("o", "output", s.hq, s.sq)], launches=[launch])


@unittest.skipIf(torch is None, "torch is not installed")
class Worker(unittest.TestCase):
    def setUp(self):
        import ours
        import worker

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.worker = Path(folder.name), worker
        (self.folder / "code.gz").write_bytes(gzip.compress(b"// PTX"))
        self.lib = samples.FakeDriver()
        made = ours.Ours
        patch = mock.patch.object(ours, "Ours", lambda device: made("cpu", Driver(self.lib), self.folder))
        for one in (patch, mock.patch.object(worker, "say")):
            one.start()
            self.addCleanup(one.stop)

    def shape(self, s, answer=None, **job):
        """One row; `answer(q, k, v)` is what the kernel would write."""
        import ours

        plans = {"sm_80": dict(ptx="code.gz", plan=made_plan(s), tables={})}
        item = dict(s.as_dict(), plans=plans)

        def run(this):
            this.bound.run(0)
            if answer:
                this.outputs()["o"].copy_(answer(*this.kept))

        with cpu(), mock.patch.object(ours.Run, "run", run):
            doer = self.worker.Shapes(dict(job, target="sm_80", seconds=0.01))
            found = doer.item(item)
        json.dumps(found)
        return found

    def test_a_shape_is_measured_against_who_is_there(self):
        s = shapes.Shape("x", "causal", 2, 2, 2, 64, 64, 64)
        found = self.shape(s, lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        self.assertTrue(found["ok"], found)
        self.assertLessEqual({"attnc", "SDPA flash"}, set(found["times"]))
        self.assertGreaterEqual(found["times"]["attnc"]["rounds"], 5)
        self.assertIn("not asked for", found["absent"]["FlexAttention"])
        self.assertIn("SDPA cuDNN", found["absent"])
        self.assertEqual(found["entries"]["attn_attend"]["registers"], 168)

    def test_a_wrong_kernel_is_not_measured(self):
        s = shapes.Shape("x", "full", 1, 4, 2, 64, 64, 64)
        found = self.shape(s)
        self.assertFalse(found["ok"])
        self.assertIn("wrong", found["absent"]["attnc"])
        self.assertIn("SDPA flash", found["times"])

    def test_attnc_can_be_left_out(self):
        found = self.shape(shapes.Shape("x", "full", 1, 2, 2, 64, 64, 64), skip=["attnc", "Triton"], faulted="attnc")
        self.assertEqual((found["absent"]["attnc"], found["absent"]["Triton"]), ("left out after a fault", "left out"))

    def test_contenders_are_known_to_run(self):
        import peers
        import run

        self.assertEqual(set(run.CONTENDERS), {"attnc", *peers.PEERS})

    def test_every_kind_has_its_tensors(self):
        for kind, more in (("window", dict(window=9)), ("softcap", dict(cap=5.0)), ("alibi", {}), ("documents", dict(documents=4))):
            found = self.shape(shapes.Shape("x", kind, 1, 2, 2, 64, 64, 64, **more))
            self.assertIn("wrong", found["absent"]["attnc"])
            self.assertIn(f"no {kind}", found["absent"]["SDPA flash"])
            self.assertIn("CPU", found["absent"]["torch flash"] + "CPU" * (kind == "softcap"))

    def check(self, answer, **more):
        """A check of one kernel whose reference is 1 everywhere."""
        import kitfiles
        import ours

        s = shapes.Shape("x", "full", 1, 1, 1, 4, 4, 64)
        ones = tensors.encoded("bf16", [1.0] * 256)
        made = [(name, "bf16", [1, 1, 4, 64], ones) for name in "qkv"]
        made.append(("ref.o", "f32", [1, 1, 4, 64], tensors.encoded("f32", [1.0] * 256)))
        tensors.write(self.folder / "t", made)
        (self.folder / "t.gz").write_bytes(gzip.compress((self.folder / "t").read_bytes()))
        gate = dict(atol=1e-2, rtol=0.0, rel_l2=1e-2)
        item = dict(id="x", tensors="t.gz", reference={"o": gate}, plans={"sm_80": dict(ptx="code.gz", plan=made_plan(s), tables={})}, **more)
        read = kitfiles.tensors
        with cpu(), mock.patch.object(ours.Run, "run", answer), mock.patch.object(kitfiles, "tensors", lambda name: read(name, self.folder)):
            found = self.worker.Checks(dict(target="sm_80")).item(item)
        json.dumps(found)
        return found

    def test_checks(self):
        good = self.check(lambda run: (run.bound.run(0), run.outputs()["o"].fill_(1.0)))
        self.assertTrue(good["ok"] and good["repeatable"] and good["log"], good)
        unwritten = self.check(lambda run: run.outputs()["o"][..., :63].fill_(1.0))
        self.assertEqual((unwritten["ok"], unwritten["outputs"]["o"]["nonfinite"]), (False, 4))
        beside = self.check(lambda run: (run.outputs()["o"].fill_(1.0), run.written["o"].bytes[:1].fill_(0)))
        self.assertEqual((beside["ok"], set(beside["overrun"])), (False, {"o"}))
        self.assertEqual((good["form"], list(good["entries"])), ("general", ["attn_attend"]))
        not_run = self.check(lambda run: (run.bound.run(0), run.outputs()["o"].fill_(1.0)), form="mapped")
        self.assertFalse(not_run["ok"])
        self.assertIn("was to run with tensor maps, ran as general", not_run["reason"])
        turns = iter(range(2))
        fickle = self.check(lambda run: run.outputs()["o"].fill_(1.0 + next(turns) * 2**-7))
        self.assertEqual((fickle["ok"], fickle["repeatable"]), (True, False))


@unittest.skipIf(torch is None, "torch is not installed")
class Peers(unittest.TestCase):
    """Masks and scores of the others, against the dense reference, without compilation."""

    def test_flex(self):
        import peers
        import reference
        from gates import BF16, compare
        from torch.nn.attention.flex_attention import flex_attention

        kinds = dict(full={}, causal={}, window=dict(window=17), softcap=dict(cap=5.0), alibi={}, documents=dict(documents=4))
        for kind, more in kinds.items():
            s = shapes.Shape("x", kind, 1, 4, 2, 80, 80, 64, flex=True, **more).as_dict()
            q, k, v = (torch.randn(1, h, 80, 64).bfloat16() for h in (4, 2, 2))
            x = dict(slopes=torch.tensor([2.0 ** (-2 * (h + 1)) for h in range(4)]), doc=torch.arange(80)[None] // 20)
            with mock.patch.object(peers, "compiled", lambda: flex_attention):
                o = peers.flex(s, q, k, v, x)()
            self.assertTrue(compare(reference.picked(s, o), reference.dense(s, q, k, v, x), BF16)["ok"], kind)

    def test_flash_takes_slopes_of_alibi(self):
        schema = str(torch.ops.aten._flash_attention_forward.default._schema)
        for word in ("cum_seq_q", "window_size_left", "window_size_right", "alibi_slopes", "scale"):
            self.assertIn(word, schema)


if __name__ == "__main__":
    unittest.main()
