"""Kits of real kernels: needs ATTNC (a binary) and ATTN_LLVM (its worker) in the environment."""

import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests import GPU

import kitfiles
import maps

BINARY, WORKER = os.environ.get("ATTNC"), os.environ.get("ATTN_LLVM")


@unittest.skipUnless(BINARY and WORKER, "ATTNC and ATTN_LLVM are not set")
class Kits(unittest.TestCase):
    def built(self, folder, *more):
        words = [sys.executable, GPU, "build", "--attnc", BINARY, "--worker", WORKER, "--out", folder, *more]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return kitfiles.manifest(Path(folder))

    def test_the_simulator_launches_what_the_plans_say(self):
        only = "rope-bf16,t5_decoder-bf16,gqa_decode-,doc_causal-bf16,nsa-bf16,bigbird_exclude-bf16,lightning-bf16,packed_cu"
        with tempfile.TemporaryDirectory() as folder:
            kit = self.built(Path(folder) / "kit", "--simulate", "--only", only)
            self.assertEqual(kit["left_out"], {})
            self.assertGreaterEqual(len(kit["checks"]), 10)
            for c in kit["checks"]:
                self.assertEqual(sorted(c["plans"]), ["sm_80", "sm_90a"])
                held = kitfiles.tensors(c["tensors"], Path(folder) / "kit")
                for entry in c["plans"]["sm_80"]["plan"]["tensors"]:
                    if entry["role"] in ("input", "updated"):
                        self.assertEqual((held[entry["name"]][:2]), (entry["dtype"], entry["shape"]), c["id"])
                    if entry["role"] in ("output", "updated"):
                        self.assertEqual(held[f"ref.{entry['name']}"][1], entry["shape"], c["id"])
                        self.assertIn(entry["name"], c["reference"])
            self.rope(next(c for c in kit["checks"] if c["id"] == "rope-bf16"), Path(folder) / "kit")

    def rope(self, c, folder):
        """The table of frequencies is what rotary positions are defined by; rope.attn has the base 500K."""
        (name,) = c["plans"]["sm_80"]["tables"].values()
        data = kitfiles.data(name, folder)
        found = struct.unpack(f"<{len(data) // 4}f", data)
        half = c["dims"]["D"] // 2
        for n, x in enumerate(found[:half]):
            self.assertAlmostEqual(x / 500_000.0 ** (-n / half), 1.0, places=6)

    def test_both_forms_of_a_real_kernel(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = self.built(Path(folder) / "kit", "--simulate", "--only", "causal-bf16", "--targets", "sm_90a")
            c = next(c for c in kit["checks"] if c["id"] == "causal-bf16")
            made = c["plans"]["sm_90a"]
            code = kitfiles.data(made["ptx"], Path(folder) / "kit").decode()
            # The second merges runs of keys.
            launch, merge = made["plan"]["launches"]
            self.assertEqual(merge["kernel"], "attn_merge")
            self.assertEqual((launch["form"], maps.choices(made["plan"])), ("mapped", ["general", "mapped"]))
            tensors = {t["name"]: t for t in made["plan"]["tensors"]}
            self.assertEqual([m["name"] for m in launch["mapped"]["maps"]], ["k", "v", "o"])
            for m in launch["mapped"]["maps"]:
                b, h, s, d = tensors[m["name"]]["shape"]
                self.assertEqual((m["dims"], m["strides"]), ([d, s, h, b], [2 * d, 2 * s * d if h > 1 else 16, 2 * h * s * d if b > 1 else 16]))
            for form in (launch, launch["mapped"]):
                self.assertIn(f".entry {form['kernel']}(", code)
                head = code.split(f".entry {form['kernel']}(")[1].split(")")[0]
                self.assertEqual(head.count(".param"), len(form["words"]) + len(form.get("maps", [])))
                self.assertEqual(head.count("[128]"), len(form.get("maps", [])))

    def test_shapes_share_code(self):
        with tempfile.TemporaryDirectory() as folder:
            kit = self.built(Path(folder) / "kit", "--only", "full-d64-", "--targets", "sm_90a")
            codes = {s["plans"]["sm_90a"]["ptx"] for s in kit["shapes"]}
            self.assertEqual((len(kit["shapes"]), len(codes)), (6, 1))
            tasks = {s["sk"]: s["plans"]["sm_90a"]["plan"]["launches"][0]["tasks"] for s in kit["shapes"]}
            self.assertTrue(all(n > 0 for n in tasks.values()))


if __name__ == "__main__":
    unittest.main()
