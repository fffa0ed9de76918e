"""The side that runs on a GPU host, against a driver that records and workers that misbehave."""

import contextlib
import gzip
import io
import json
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from tests import GPU, samples

import build
import gallery
import kitfiles
import plan
import publish
import shapes
import supervise
import table
import tensors
from driver import Bound, Driver, DriverError
from tests.test_plan import Q_MAP, sample

try:
    import torch
except ImportError:
    torch = None


class Launches(unittest.TestCase):
    def setUp(self):
        self.plan = json.loads(json.dumps(plan.plan(sample(), {"B": 2, "S": 65})))

    def test_order_words_and_attributes(self):
        lib = samples.FakeDriver()
        module = Driver(lib).load(b"// PTX")
        bound = Bound(module, self.plan, [0x1000, 0x2000, 0x3000, 0x4000, 0x5000])
        bound.run(9)
        bound.run(9)
        first = ("launch", "attn_first", 4, 128, 1024, 9, [0x1000, 2, 65, 1, 64, 128, 64])
        second = ("launch", "attn_second", 130, 128, 0, 9, [0x2000, 0x3000, 0x4000, 0, 1, 2, 65, (1 << 64) - 7])
        wanted = [("load", b"// PTX\0"[:-1]), ("attribute", "attn_first", 8, 1024), first, second, first, second]
        self.assertEqual(lib.calls, wanted)
        self.assertEqual(module.log, "ptxas info: 3 registers")
        self.assertEqual(module.facts()["attn_second"], dict(registers=168, local_bytes=0))

    def test_errors_have_names_and_logs(self):
        lib = samples.FakeDriver({"cuModuleLoadDataEx": 218}, b"ptxas fatal: line 3")
        with self.assertRaisesRegex(DriverError, "CUDA_ERROR_218: ptxas fatal: line 3"):
            Driver(lib).load(b"nonsense")
        for call in ("cuModuleGetFunction", "cuFuncSetAttribute"):
            with self.assertRaisesRegex(DriverError, "CUDA_ERROR_1"):
                Bound(Driver(samples.FakeDriver({call: 1})).load(b""), self.plan, [0] * 5)
        bound = Bound(Driver(samples.FakeDriver({"cuLaunchKernel": 719})).load(b""), self.plan, [0] * 5)
        with self.assertRaisesRegex(DriverError, "CUDA_ERROR_719"):
            bound.run(0)


class Forms(unittest.TestCase):
    """A launch of two forms: which is launched, and with what."""

    def setUp(self):
        self.plan = json.loads(json.dumps(plan.plan(sample([Q_MAP, Q_MAP]), {"B": 2, "S": 65})))
        self.general = ("launch", "attn_first", 4, 128, 1024, 9, [0x1000, 2, 65, 1, 64, 128, 64])

    def bound(self, form=None, q=0x1000, fail=None):
        lib = samples.FakeDriver(fail)
        bound = Bound(Driver(lib).load(b""), self.plan, [q, 0x2000, 0x3000, 0x4000, 0x5000], form, 0x6000)
        for _ in range(2):
            bound.run(9)
        return bound, lib

    def test_maps_stand_behind_the_words(self):
        for form in (None, "mapped"):
            bound, lib = self.bound(form)
            maps = [c for c in lib.calls if c[0] == "map"]
            # bf16; no interleave, a swizzle of 128 bytes, promotion to 256 bytes, zeros out of range.
            self.assertEqual(maps, 2 * [("map", 9, 0x1000, [64, 65, 2], [256, 128], [64, 128, 1], (0, 3, 3, 0))])
            params = [0x6000, 2, 65, 1, 64, 128, 64, bytes([1]) * 128, bytes([2]) * 128]
            first = ("launch", "attn_first_mapped", 3, 256, 300, 9, params)
            self.assertIn(("fit", "attn_first_mapped", 256, 300), lib.calls)
            self.assertEqual([c for c in lib.calls if c[0] == "launch"][::2], [first, first])
            self.assertIn(("attribute", "attn_first_mapped", 8, 300), lib.calls)
            self.assertEqual((bound.form(), bound.reasons, bound.kernels), ("mapped", [], ["attn_first_mapped", "attn_second"]))

    def test_persistent_blocks_are_as_many_as_fit(self):
        for fits, blocks in ((0, 3), (1, 3), (2, 4)):
            with mock.patch.object(samples.FakeDriver, "fits", fits):
                lib = self.bound()[1]
            self.assertEqual([c[2] for c in lib.calls if c[0] == "launch"][:2], [blocks, 130], fits)
        with self.assertRaisesRegex(DriverError, "how many blocks fit: CUDA_ERROR_1"):
            self.bound(fail={"cuOccupancyMaxActiveBlocksPerMultiprocessor": 1})

    def test_f16_is_another_type(self):
        for one in self.plan["launches"][0]["mapped"]["maps"]:
            one["dtype"] = "f16"
        self.assertEqual([c[1] for c in self.bound()[1].calls if c[0] == "map"], [6, 6])

    def test_the_general_form(self):
        bound, lib = self.bound("general")
        self.assertEqual([c for c in lib.calls if c[0] == "launch"][0], self.general)
        self.assertEqual((bound.form(), bound.reasons, lib.maps), ("general", ["first: asked for"], []))

    def test_an_odd_address_and_bad_strides_take_the_general_form(self):
        bound, lib = self.bound("mapped", q=0x1008)
        self.assertEqual((bound.form(), lib.maps, [c[1] for c in lib.calls if c[0] == "launch"][0]), ("general", [], "attn_first"))
        self.assertIn("address of `q`", bound.reasons[0])
        self.plan["launches"][0] |= dict(form="general", form_reason="a stride")
        bound, lib = self.bound("mapped")
        self.assertEqual((bound.form(), bound.reasons, lib.maps), ("general", ["first: a stride"], []))

    def test_some_launches_with_maps(self):
        more = json.loads(json.dumps(self.plan["launches"][0])) | dict(name="third")
        more["mapped"]["maps"][0] |= dict(tensor=1, name="o")
        self.plan["launches"].append(more)
        self.assertEqual(self.bound()[0].form(), "mapped")
        lib = samples.FakeDriver()
        bound = Bound(Driver(lib).load(b""), self.plan, [0x1000, 0x2002, 0, 0, 0])
        self.assertEqual((bound.form(), bound.forms), ("mixed", dict(first="mapped", third="general")))

    def test_what_cannot_be(self):
        with self.assertRaisesRegex(DriverError, "refuses a tensor map: CUDA_ERROR_1: .*'name': 'q'"):
            self.bound(fail={"cuTensorMapEncodeTiled": 1})
        old = samples.FakeDriver()
        with mock.patch.object(samples.FakeDriver, "cuTensorMapEncodeTiled", property(lambda _: (_ for _ in ()).throw(AttributeError()))):
            with self.assertRaisesRegex(DriverError, "no tensor maps"):
                Bound(Driver(old).load(b""), self.plan, [0] * 5)
        self.plan["launches"][0]["mapped"]["maps"] *= 9
        with self.assertRaisesRegex(DriverError, "18 tensor maps"):
            self.bound()


@unittest.skipIf(torch is None, "torch is not installed")
class Memory(unittest.TestCase):
    """`ours.py` on torch's CPU tensors."""

    def run_of(self, folder, given, maps=None, form=None):
        from ours import Ours

        artifact, dims = sample(maps), {"B": 2, "S": 65}
        (folder / "code.gz").write_bytes(gzip.compress(artifact.code))
        (folder / "halves.gz").write_bytes(gzip.compress(plan.tables(artifact, dims)["halves"]))
        made = dict(ptx="code.gz", plan=plan.plan(artifact, dims), tables={"halves": "halves.gz"})
        lib = samples.FakeDriver()
        return lib, Ours("cpu", Driver(lib), folder).bind(made, given, form)

    def test_addresses_guards_and_poison(self):
        q, doc = torch.zeros(65, 2, 64, dtype=torch.bfloat16), torch.zeros(65, dtype=torch.int32)
        with tempfile.TemporaryDirectory() as folder:
            lib, run = self.run_of(Path(folder), {"q": q, "doc": doc})
        run.run()
        launches = [c for c in lib.calls if c[0] == "launch"]
        self.assertEqual(launches[0][-1][0], q.data_ptr())
        self.assertEqual(launches[1][-1][0], run.written["o"].address())
        self.assertEqual((list(run.outputs()), run.overrun()), (["o"], []))
        self.assertTrue(bool(run.outputs()["o"].isnan().all()))
        run.written["o"].bytes[run.written["o"].entry["bytes"] + 256] = 0
        self.assertEqual(run.overrun(), ["o"])

    def test_forms_on_memory(self):
        whole, doc = torch.zeros(65 * 2 * 64 + 8, dtype=torch.bfloat16), torch.zeros(65, dtype=torch.int32)
        for first, form, found in ((0, None, "mapped"), (0, "general", "general"), (8, "mapped", "mapped"), (1, "mapped", "general")):
            q = whole[first : first + 65 * 2 * 64].view(65, 2, 64)
            with tempfile.TemporaryDirectory() as folder:
                lib, run = self.run_of(Path(folder), {"q": q, "doc": doc}, [Q_MAP], form)
            facts = run.facts()
            self.assertEqual((facts["form"], [c[2] for c in lib.calls if c[0] == "map"]), (found, [q.data_ptr()] * (found == "mapped")))
            self.assertEqual(list(facts["entries"]), ["attn_first" + "_mapped" * (found == "mapped"), "attn_second"])

    def test_what_does_not_fit_the_plan_is_refused(self):
        doc = torch.zeros(65, dtype=torch.int32)
        bad = [torch.zeros(65, 2, 64), torch.zeros(2, 65, 64, dtype=torch.bfloat16), torch.zeros(2, 65, 64, dtype=torch.bfloat16).transpose(0, 1)]
        for q in bad:
            with tempfile.TemporaryDirectory() as folder, self.assertRaises(ValueError):
                self.run_of(Path(folder), {"q": q, "doc": doc})

    def test_gates(self):
        from gates import BF16, compare

        a = torch.tensor([1.0, float("nan"), float("inf"), 0.0])
        self.assertTrue(compare(a, a, BF16)["ok"])
        self.assertTrue(compare(a + 0.005, a, dict(BF16, rel_l2=None))["ok"])
        self.assertFalse(compare(a + 0.05, a, BF16)["ok"])
        self.assertEqual(compare(torch.zeros(4), a, BF16)["nonfinite"], 2)

    def test_reference_is_dense_attention(self):
        import reference

        s = shapes.Shape("x", "causal", 2, 4, 2, 33, 33, 64).as_dict()
        q, k, v = (torch.randn(2, h, 33, 64) for h in (4, 2, 2))
        wide = lambda t: t.repeat_interleave(2, 1)
        whole = torch.nn.functional.scaled_dot_product_attention(q, wide(k), wide(v), is_causal=True)
        error = (reference.picked(s, whole) - reference.dense(s, q, k, v, {})).abs().max()
        self.assertLess(float(error), 1e-5)


def script(body):
    """A worker: `job` is what it was given."""
    return [sys.executable, "-c", f"import json,sys,time\njob=json.load(sys.stdin)\ndef say(**x): print(json.dumps(x), flush=True)\n{body}"]


class Supervision(unittest.TestCase):
    def results(self, body, limit=5.0, seconds=30.0, **more):
        found = {}
        items = [dict(id=x) for x in "abcd"]
        supervise.work(dict(what="test"), items, limit, time.monotonic() + seconds, lambda id, x: found.update({id: x}), script(body), **more)
        self.assertEqual(sorted(found), list("abcd"))
        return found

    def test_all_is_well(self):
        found = self.results("for i in job['items']: say(stage=i['id']); say(id=i['id'], ok=True)")
        self.assertTrue(all(x["ok"] for x in found.values()))

    def test_a_worker_that_dies_costs_one_item(self):
        body = "for i in job['items']:\n say(stage=i['id'])\n if i['id'] == 'b': print('illegal address', file=sys.stderr); sys.exit(9)\n say(id=i['id'], ok=True)"
        found = self.results(body)
        self.assertEqual([found[x]["ok"] for x in "abcd"], [True, False, True, True])
        self.assertIn("illegal address", found["b"]["reason"])

    def test_a_broken_context_costs_nothing_more(self):
        body = "for i in job['items']:\n say(id=i['id'], ok=i['id'] != 'b')\n if i['id'] == 'b': sys.exit(3)"
        found = self.results(body)
        self.assertEqual([found[x]["ok"] for x in "abcd"], [True, False, True, True])

    def test_a_worker_that_hangs_is_ended(self):
        body = "for i in job['items']:\n say(stage=i['id'])\n if i['id'] == 'c': time.sleep(60)\n say(id=i['id'], ok=True)"
        found = self.results(body, limit=1.0)
        self.assertEqual([found[x]["ok"] for x in "abcd"], [True, True, False, True])
        self.assertIn("hung for 1 s at c", found["c"]["reason"])

    def test_after_the_deadline_nothing_runs(self):
        found = self.results("time.sleep(60)", seconds=0.5)
        self.assertTrue(all(x["skipped"] for x in found.values()))

    def test_a_second_try_with_other_fields(self):
        body = "for i in job['items']:\n if i['id'] == 'b' and not job.get('skip'): sys.exit(1)\n say(id=i['id'], ok=bool(job.get('skip')))"
        found = self.results(body, again=lambda item, fault: dict(skip=["attnc"]))
        self.assertTrue(found["b"]["ok"] and "code 1" in found["b"]["fault"])

    def test_single(self):
        self.assertEqual(supervise.single({}, 10, script("say(id='probe', gpu='x')"))["gpu"], "x")
        with self.assertRaisesRegex(RuntimeError, "no torch"):
            supervise.single({}, 10, script("sys.exit('no torch')"))


def results():
    """A made-up run."""
    full = next(s for s in shapes.shapes() if s.id == "full-d128-s8192").as_dict()
    decode = next(s for s in shapes.shapes() if s.id == "decode-q1-b32-kv8192").as_dict()
    lost = next(s for s in shapes.shapes() if s.kind == "alibi").as_dict()
    times = lambda **ms: {name.replace("_", " "): dict(ms=x) for name, x in ms.items()}
    rows = [dict(full, ok=True, times=times(attnc=1.0, SDPA_cuDNN=2.0, FlexAttention=3.0), clocks=dict(sm_mhz=1500.0))]
    rows += [dict(decode, ok=True, times=times(attnc=0.5)), dict(lost, ok=False, reason="it hung")]
    checks = [dict(id="causal-bf16", target="sm_90a", ok=True, repeatable=True), dict(id="rope-bf16", target="sm_90a", ok=False, reason="no")]
    host = dict(gpu="NVIDIA H200", driver="580", torch="2.11", cudnn=91000, triton="3.6")
    return dict(schema=1, kit=dict(commit="abc", date="d"), host=host, quick=False, date="2026-11-26", checks=checks, shapes=rows)


class Command(unittest.TestCase):
    """run.py from the command line to its files, with workers that are made up."""

    def run_with(self, folder, probe, work, *words):
        import run

        manifest = dict(schema=1, attnc="attnc 0", commit="abc", date="d", targets=["sm_80", "sm_90a"], left_out={})
        one, two = dict(tasks=1), dict(tasks=1, form="mapped", mapped={})
        both = {"sm_80": dict(plan=dict(launches=[one])), "sm_90a": dict(plan=dict(launches=[one, two]))}
        manifest["checks"] = [dict(id=f"{name}-bf16", quick=name == "causal", plans=both) for name in ("causal", "rope")]
        rows = [s for s in shapes.shapes() if s.id in ("full-d128-s8192", "alibi-d128-s8192")]
        manifest["shapes"] = [dict(s.as_dict(), plans=both) for s in rows]
        words = ["run.py", "--out", str(folder / "r.json"), *words]
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        patches = mock.patch.object(sys, "argv", words), mock.patch("kitfiles.manifest", lambda: manifest)
        workers = mock.patch("supervise.single", probe), mock.patch("supervise.work", work)
        with contextlib.ExitStack() as stack:
            for one in (*quiet, *patches, *workers):
                stack.enter_context(one)
            with self.assertRaises(SystemExit) as end:
                run.main()
        return end.exception.code, json.loads((folder / "r.json").read_text()), folder

    def probe(self, *_):
        return dict(gpu="NVIDIA H100 80GB HBM3", driver="580", torch="2", capability=[9, 0])

    def work(self, job, items, limit, deadline, done, again=None):
        for item in items:
            if job["what"] == "check":
                self.assertEqual(item["id"].split("/")[1], item["form"])
                done(item["id"], dict(ok=True))
            elif item["id"] == "copy":
                done("copy", dict(ok=True, bytes_per_second=3e12))
            else:
                self.assertEqual(again(item, dict(stage="Triton"))["skip"], ["Triton"])
                self.assertEqual(again(item, dict(stage="turns"))["faulted"], "attnc")
                form = job["form"] or "mapped"
                done(item["id"], dict(ok=True, form=form, times=dict(attnc=dict(ms=1.0), Triton=dict(ms=2.0)), absent={}))

    def test_all(self):
        with tempfile.TemporaryDirectory() as folder:
            code, results, folder = self.run_with(Path(folder), self.probe, self.work)
            text = (folder / "r.md").read_text()
            self.assertIn("| full-d128-s8192 | 1.000 |", text)
            self.assertIn("| mapped | Triton |", text)
            self.assertIn("sm_90a: 4 of 4 checks right; 2 of 2 with tensor maps", text)
        self.assertEqual((code, len(results["checks"]), len(results["shapes"]), results["copy_bytes_per_second"]), (0, 6, 2, 3e12))
        found = sorted((c["target"], c["id"], c["form"]) for c in results["checks"])
        wanted = [("sm_80", f"{name}-bf16", "general") for name in ("causal", "rope")]
        wanted += [("sm_90a", f"{name}-bf16", form) for name in ("causal", "rope") for form in ("general", "mapped")]
        self.assertEqual(found, wanted)
        self.assertEqual([c["target"] for c in results["checks"]], ["sm_90a"] * 4 + ["sm_80"] * 2)
        self.assertNotIn("plans", results["shapes"][0])

    def test_one_form(self):
        for form, wanted in (("general", ["general"] * 4), ("mapped", ["general"] * 2 + ["mapped"] * 2)):
            with tempfile.TemporaryDirectory() as folder:
                _, results, folder = self.run_with(Path(folder), self.probe, self.work, "--form", form)
                self.assertIn(f", --form {form};", (folder / "r.md").read_text())
            self.assertEqual(sorted(c["form"] for c in results["checks"]), wanted)
            self.assertEqual({s["form"] for s in results["shapes"]}, {form})

    def test_quick_and_wrong(self):
        wrong = lambda job, items, limit, deadline, done, again=None: [done(i["id"], dict(ok=False, reason="x")) for i in items]
        with tempfile.TemporaryDirectory() as folder:
            code, results, _ = self.run_with(Path(folder), self.probe, wrong, "--quick")
        self.assertEqual((code, len(results["checks"]), len(results["shapes"])), (3, 2, 1))
        self.assertEqual(sorted(c["form"] for c in results["checks"]), ["general", "mapped"])

    def test_no_gpu(self):
        def probe(*_):
            raise RuntimeError("torch sees no GPU")

        with tempfile.TemporaryDirectory() as folder:
            code, results, _ = self.run_with(Path(folder), probe, self.work)
        self.assertIn("torch sees no GPU", code)
        self.assertEqual((results["reason"], results["checks"]), ("torch sees no GPU", []))


class Tables(unittest.TestCase):
    def test_figures(self):
        full, decode, lost = table.figures(results())
        self.assertAlmostEqual(full["rate"], 4 * 128 * 2 * 16 * 8192**2 / 1e-3 / 1e12)
        self.assertAlmostEqual(full["share"], full["rate"] / 989)
        self.assertEqual((full["best"], full["over_best"], full["over_flex"], full["mhz"]), ("SDPA cuDNN", 2.0, 3.0, 1500.0))
        self.assertEqual((decode["unit"], decode["best"], lost["ms"], lost["reason"]), ("TB/s", None, None, "it hung"))
        self.assertAlmostEqual(decode["share"], decode["rate"] / 4.8)

    def test_peaks(self):
        self.assertEqual(table.peak("NVIDIA H100 80GB HBM3"), (989, 3.35))
        self.assertEqual(table.peak("NVIDIA A100-SXM4-80GB"), (312, 2.0))
        self.assertEqual(table.peak("another"), (None, None))

    def test_texts(self):
        terminal, markdown = "\n".join(table.terminal(results())), table.markdown(results())
        for text in (terminal, markdown):
            self.assertIn("sm_90a: 1 of 2 checks right", text)
            self.assertIn("rope-bf16: no", text)
            self.assertIn("it hung", text)
        self.assertIn("| full-d128-s8192 | 1.000 |", markdown)

    def test_publish_stands_between_the_markers(self):
        page = publish.PAGE.read_text()
        once = publish.replaced(page, table.markdown(results()))
        self.assertEqual(publish.replaced(once, "x"), publish.replaced(page, "x"))
        self.assertIn("abc", once)
        with self.assertRaises(SystemExit):
            publish.write(dict(results(), checks=[], shapes=[]))


class Lists(unittest.TestCase):
    def test_every_kernel_of_the_gallery_is_checked(self):
        found = {c["kernel"] for c in gallery.checks() if c["dtype"] == "bf16"}
        self.assertEqual(found, {name for _, name, _ in gallery.kernels()})
        self.assertGreater(len(found), 60)
        ids = [c["id"] for c in gallery.checks()]
        self.assertEqual(len(ids), len(set(ids)))
        for names in (gallery.QUICK, gallery.BATCHED, *gallery.ALSO.values(), gallery.LONGER, gallery.RECIPES, gallery.SIZES_OF, gallery.PARAMS):
            self.assertLessEqual(set(names), found)

    def test_shapes(self):
        found = shapes.shapes()
        ids = [s.id for s in found]
        self.assertEqual(len(ids), len(set(ids)))
        for d in (64, 128, 256):
            for s in (512, 1024, 2048, 4096, 8192, 16384):
                self.assertTrue({f"full-d{d}-s{s}", f"causal-d{d}-s{s}"} <= set(ids))
        window = next(s for s in found if s.id == "window128-d64-s8192")
        self.assertEqual(window.pairs, 64 * sum(min(i + 1, 128) for i in range(8192)))

    def test_targets_by_capability(self):
        self.assertEqual(kitfiles.usable(["sm_80", "sm_90a"], [9, 0]), ["sm_90a", "sm_80"])
        self.assertEqual(kitfiles.usable(["sm_80", "sm_90a"], [8, 6]), ["sm_80"])
        self.assertEqual(kitfiles.usable(["sm_80", "sm_90a"], [10, 0]), ["sm_80"])
        self.assertEqual(kitfiles.usable(["sm_80"], [7, 5]), [])

    def test_the_carried_side_needs_nothing_of_the_other(self):
        ours = {p.stem for p in GPU.glob("*.py")}
        for path in (GPU / "kit").glob("*.py"):
            words = [line.split()[1].split(".")[0] for line in path.read_text().splitlines() if line.strip().startswith(("import ", "from "))]
            self.assertFalse(set(words) & ours, path)

    def test_files_of_tensors_are_read_as_written(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            tensors.write(folder / "x", [("a", "bf16", [2], b"\0\1\2\3")])
            (folder / "x.gz").write_bytes(gzip.compress((folder / "x").read_bytes()))
            self.assertEqual(kitfiles.tensors("x.gz", folder), {"a": ("bf16", [2], b"\0\1\2\3")})
            (folder / "kit.json").write_text(json.dumps(dict(schema=build.SCHEMA, checks=[])))
            self.assertEqual(kitfiles.manifest(folder)["checks"], [])


if __name__ == "__main__":
    unittest.main()
