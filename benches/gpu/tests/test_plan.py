"""Packages, expressions, plans, tables, tensors."""

import json
import math
import struct
import tempfile
import unittest
from types import SimpleNamespace as Record

from tests import samples

import expressions
import maps
import package
import plan
import tensors
from expressions import BINARY, UNARY, Evaluator
from postcard import Malformed, Reader

MASK = 1 << 64


Q_MAP = (0, 1, 2, 128, 64)
"""Rows of q along S, columns along its features."""


def sample(maps=None):
    with tempfile.TemporaryDirectory() as folder:
        return package.read(samples.file(folder, samples.payload(maps)))


class Packages(unittest.TestCase):
    def test_fields_are_read(self):
        a = sample()
        self.assertEqual((a.name, a.target, a.code, a.schedule), ("sample", "sm_80", b"// PTX", "as it comes"))
        self.assertEqual(a.nodes, samples.NODES)
        self.assertEqual([(s.name, s.is_dim, s.default) for s in a.scalars], [("B", True, None), ("S", True, None), ("W", False, -7), ("cap", False, 1.5)])
        self.assertEqual([t.role for t in a.tensors], ["input", "output", "table", "workspace", "input"])
        self.assertEqual((a.demands[0].kind, a.demands[0].hi), ("within", (2, "64")))
        self.assertEqual([one.device.words for one in a.launches][1], [1])

    def test_a_launch_of_two_forms(self):
        first, _, second = sample([Q_MAP, (1, 0, 300, 1, 64)]).launches
        self.assertIsNone(second.device.mapped)
        self.assertEqual((first.device.kernel, first.device.words), ("attn_first", [1, 2, 3, 7, 5, 6, 4]))
        other = first.device.mapped
        self.assertEqual(vars(other.launch), dict(kernel="attn_first_mapped", threads=256, shared_bytes=300, words=[0, 2, 3, 7, 5, 6, 4], persistent=True, mapped=None))
        self.assertEqual([tuple(vars(m).values()) for m in other.maps], [Q_MAP, (1, 0, 300, 1, 64)])

    def test_what_is_not_a_package_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            for body, version in ((samples.payload()[:-1], package.VERSION), (samples.payload() + b"x", package.VERSION), (None, package.VERSION + 1)):
                with self.assertRaises(Malformed):
                    package.read(samples.file(folder, body, version))
            path = samples.file(folder)
            path.write_bytes(path.read_bytes()[:-1])
            with self.assertRaises(Malformed):
                package.read(path)
            path.write_bytes(b"not a package of any kind")
            with self.assertRaises(Malformed):
                package.read(path)

    def test_numbers_of_postcard(self):
        for n in (0, 1, 127, 128, 300, (1 << 64) - 1):
            self.assertEqual(Reader(bytes(samples.Writer().u(n).out)).unsigned(), n)
        for n in (0, 1, -1, 63, -64, 64, -65, 1 << 40, -(1 << 40)):
            self.assertEqual(Reader(bytes(samples.Writer().i(n).out)).signed(), n)


class Expressions(unittest.TestCase):
    def test_ints_wrap_and_floor(self):
        self.assertEqual(BINARY["add"]((1 << 63) - 1, 1), -(1 << 63))
        self.assertEqual([BINARY["idiv"](a, b) for a, b in ((7, 2), (-7, 2), (7, -2), (5, 0))], [3, -4, -4, 0])
        self.assertEqual([BINARY["mod"](a, b) for a, b in ((7, 3), (-7, 3), (5, 0))], [1, 2, 5])
        self.assertEqual(UNARY["neg"](-(1 << 63)), -(1 << 63))

    def test_floats_follow_ieee(self):
        self.assertEqual(BINARY["div"](1.0, 0.0), math.inf)
        self.assertEqual(BINARY["div"](1.0, -0.0), -math.inf)
        self.assertTrue(math.isnan(BINARY["div"](0.0, 0.0)))
        self.assertEqual(UNARY["log"](-1.0), -math.inf)
        self.assertEqual(UNARY["exp"](1e9), math.inf)
        self.assertEqual([UNARY["to_int"](x) for x in (2.9, -2.9, math.nan, 1e300)], [2, -2, 0, (1 << 63) - 1])
        self.assertEqual(UNARY["round32"](0.1), struct.unpack("<f", struct.pack("<f", 0.1))[0])
        self.assertEqual((BINARY["pow"](2.0, -8.0), BINARY["pow"](0.0, -1.0)), (2.0**-8, math.inf))

    def test_only_the_branch_taken_is_evaluated(self):
        nodes = [("bool", False), ("load", 0, [], "int"), ("int", 4), ("select", 0, 1, 2), ("binary", "and", 0, 1)]
        worth = Evaluator(nodes, [])
        self.assertEqual((worth(3), worth(4)), (4, False))
        with self.assertRaises(ValueError):
            worth(1)

    def test_philox_known_answers(self):
        self.assertEqual(expressions.philox([0] * 4, [0] * 2), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
        ones = (1 << 32) - 1
        self.assertEqual(expressions.philox([ones] * 4, [ones] * 2), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD])

    def test_random_blocks_are_distinct_and_in_range(self):
        for row in range(50):
            drawn = expressions.rand_block_columns(row, 7, 2, 5, 17)
            self.assertEqual((len(drawn), len(set(drawn))), (5, 5))
            self.assertTrue(all(0 <= c < 7 for c in drawn))
        self.assertEqual(sorted(expressions.rand_block_columns(0, 3, 0, 9, 1)), [0, 1, 2])

    def test_excluded_columns_are_never_drawn(self):
        # Operands: row, col, ncols, head, n, seed, and "col < 3".
        nodes = [("int", 5), ("var", 0), ("int", 8), ("int", 0), ("int", 4), ("int", 1), ("int", 3), ("binary", "lt", 1, 6)]
        nodes.append(("rand_block_except", [0, 1, 2, 3, 4, 5, 7]))
        chosen = [c for c in range(8) if Evaluator(nodes, [c])(8)]
        self.assertEqual(len(chosen), 4)
        self.assertTrue(min(chosen) >= 3)


class Plans(unittest.TestCase):
    def setUp(self):
        self.artifact = sample()
        self.plan = plan.plan(self.artifact, {"B": 2, "S": 65})

    def test_it_is_json(self):
        self.assertEqual(json.loads(json.dumps(self.plan)), self.plan)

    def test_tensors_as_bound(self):
        q, o, halves, scratch, doc = self.plan["tensors"]
        self.assertEqual((q["shape"], q["strides"], q["bytes"]), ([65, 2, 64], [128, 64, 1], 2 * 65 * 2 * 64))
        self.assertEqual(q["expressions"], ["B", "S", "64"])
        self.assertEqual((o["shape"], halves["shape"], scratch["bytes"], doc["shape"]), ([2, 65], [65], 0, [65]))

    def test_launches_in_order_with_their_words(self):
        first, none, second = self.plan["launches"]
        self.assertEqual([one["tasks"] for one in (first, none, second)], [2 * 2, 0, 130])
        # q: address, sizes by dim, strides by dim although its axes are swapped.
        self.assertEqual(first["words"], [[0], 2, 65, 1, 64, 128, 64])
        # o, the table, the empty workspace with strides of 0, then the scalars.
        self.assertEqual(second["words"], [[1], [2], [3], 0, 1, 2, 65, MASK - 7])
        self.assertEqual((first["kernel"], first["threads"], first["shared_bytes"]), ("attn_first", 128, 1024))

    def test_parameters(self):
        other = plan.plan(self.artifact, {"B": 2, "S": 65}, {"W": 9, "cap": 0.1})
        self.assertEqual(other["scalars"], {"B": 2, "S": 65, "W": 9, "cap": UNARY["round32"](0.1)})
        self.assertEqual(plan.word_of(1.0), 0x3F800000)
        self.assertEqual((plan.word_of(True), plan.word_of(-1)), (1, MASK - 1))

    def test_refusals(self):
        with self.assertRaisesRegex(plan.Refused, "`S` has no value"):
            plan.plan(self.artifact, {"B": 2})
        with self.assertRaisesRegex(plan.Refused, "S is negative"):
            plan.plan(self.artifact, {"B": 2, "S": -1})
        self.artifact.launches[0].device = None
        with self.assertRaisesRegex(plan.Refused, "for a CPU"):
            plan.plan(self.artifact, {"B": 2, "S": 1})

    def test_tables(self):
        made = plan.tables(self.artifact, {"B": 1, "S": 5})
        self.assertEqual(struct.unpack("<5f", made["halves"]), (-1.5, -1.0, -0.5, 0.0, 0.5))

    def test_entries_of_tables(self):
        self.assertEqual(plan.stored("i32", -2), b"\xfe\xff\xff\xff")
        self.assertEqual(plan.stored("f16", 1e9), struct.pack("<e", math.inf))
        self.assertEqual(plan.stored("bit", True), b"\x01")
        with self.assertRaises(plan.Refused):
            plan.stored("i8", 128)


class Maps(unittest.TestCase):
    """The rule of runtime/src/device/maps.rs."""

    def made(self, sizes=(2, 3, 70, 128), strides=(26880, 8960, 128, 1), dtype="bf16", row=2, col=3, rows=128, cols=64):
        try:
            return maps.described(dtype, sizes, strides, row, col, rows, cols)
        except maps.Unmapped as err:
            return str(err)

    def test_columns_come_first_then_the_others_from_the_last(self):
        self.assertEqual(self.made(), dict(dims=[128, 70, 3, 2], strides=[256, 17920, 53760], box=[64, 128, 1, 1]))
        self.assertEqual(self.made((70, 128, 2), (128, 1, 8960), row=0, col=1), dict(dims=[128, 2, 70], strides=[17920, 256], box=[64, 1, 128]))
        self.assertIsInstance(self.made(dtype="f16"), dict)

    def test_strides(self):
        for stride, ok in ((8, True), (136, True), (132, False), (1, False), (0, False), (-128, False), ((1 << 39) - 8, True), (1 << 39, False), (1 << 63, False)):
            self.assertEqual(isinstance(self.made(strides=(26880, 8960, stride, 1)), dict), ok, stride)
        self.assertIn("dim 0 has a stride of 0 bytes", self.made(strides=(0, 8960, 128, 1)))
        self.assertIn("columns lie 2 elements", self.made(strides=(26880, 8960, 256, 2)))

    def test_a_dim_of_one_has_any_stride(self):
        for stride in (0, 3, -5, 1 << 62):
            self.assertEqual(self.made((1, 3, 70, 128), (stride, 8960, 128, 1))["strides"], [256, 17920, 16])
            self.assertEqual(self.made((2, 3, 1, 128), (26880, 8960, stride, 1))["strides"], [16, 17920, 53760])
            self.assertEqual(self.made((2, 3, 70, 1), (26880, 8960, 128, stride))["dims"], [1, 70, 3, 2])

    def test_sizes_types_ranks_and_boxes(self):
        for sizes, ok in (((2, 0, 70, 128), False), ((2, 3, 70, 0), False), ((1 << 32, 3, 70, 128), True), (((1 << 32) + 1, 3, 70, 128), False)):
            self.assertEqual(isinstance(self.made(sizes), dict), ok, sizes)
        for more in (dict(dtype="f32"), dict(row=3), dict(row=4), dict(col=4), dict(rows=257), dict(rows=0), dict(cols=0), dict(cols=512)):
            self.assertIsInstance(self.made(**more), str, more)
        self.assertIsInstance(self.made(rows=256, cols=256), dict)
        self.assertIsInstance(self.made((128,), (1,), row=0, col=0), str)
        self.assertIsInstance(self.made((2,) * 6, (256, 128, 64, 32, 16, 1), row=0, col=5), str)
        self.assertIsInstance(self.made((2,) * 5, (128, 64, 32, 16, 1), row=0, col=4), dict)

    def test_plans_have_both_forms(self):
        made = json.loads(json.dumps(plan.plan(sample([Q_MAP]), {"B": 2, "S": 65})))
        first, _, second = made["launches"]
        self.assertEqual((first["kernel"], first["threads"], first["shared_bytes"], first["words"][0]), ("attn_first", 128, 1024, [0]))
        self.assertEqual((first["form"], first["form_reason"]), ("mapped", None))
        wanted = dict(tensor=0, name="q", dtype="bf16", dims=[64, 65, 2], strides=[256, 128], box=[64, 128, 1])
        self.assertEqual(first["mapped"], dict(kernel="attn_first_mapped", threads=256, shared_bytes=300, persistent=True, words=[["counter"], 2, 65, 1, 64, 128, 64], maps=[wanted]))
        self.assertNotIn("mapped", second)
        self.assertEqual((maps.choices(made), plan.taken(first), plan.taken(second)), (["general", "mapped"], first["mapped"], second))

    def test_plans_say_why_the_general_form_is_taken(self):
        for spec, why in (((1, 0, 1, 128, 64), "`o`: f32 of 2 dims"), ((9, 0, 1, 128, 64), "no tensor 9"), ((0, 1, 0, 128, 64), "columns lie 64")):
            made = plan.plan(sample([Q_MAP, spec]), {"B": 2, "S": 65})
            first = made["launches"][0]
            self.assertEqual((first["form"], maps.choices(made), plan.taken(first)), ("general", ["general"], first))
            self.assertIn(why, first["form_reason"])
        empty = plan.plan(sample([Q_MAP]), {"B": 2, "S": 0})
        self.assertEqual((empty["launches"][0]["form"], maps.choices(empty)), ("general", ["general"]))

    def test_addresses_and_what_is_asked_for(self):
        first = plan.plan(sample([Q_MAP]), {"B": 2, "S": 65})["launches"][0]
        self.assertEqual([maps.taken(first, [a])[0] for a in (0x100, 0x110, 0x108, 0x101)], ["mapped", "mapped", "general", "general"])
        self.assertIn("address of `q`", maps.taken(first, [0x101], "mapped")[1])
        self.assertEqual(maps.taken(first, [0x100], "general"), ("general", "asked for"))
        self.assertEqual(maps.taken(first, [0x100], "mapped"), ("mapped", None))
        self.assertEqual(maps.taken(dict(tasks=1), [], "mapped"), ("general", None))


class Tensors(unittest.TestCase):
    def test_bf16_rounds_to_even(self):
        bits = lambda x: tensors.bf16_bits([x])[0]
        self.assertEqual([bits(x) for x in (1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20)], [0x3F80, 0x3F80, 0x3F82, 0x3F81])
        self.assertEqual(tensors.widened("bf16", tensors.encoded("bf16", [1.5, -2.0])), struct.pack("<2f", 1.5, -2.0))
        self.assertEqual(tensors.widened("f16", tensors.encoded("f16", [0.25])), struct.pack("<f", 0.25))

    def test_files(self):
        made = [("a.b", "bf16", [2], b"\0\1\2\3"), ("flag", "bit", [3], b"\1\0\1"), ("none", "f32", [0, 4], b"")]
        with tempfile.TemporaryDirectory() as folder:
            path = samples.Path(folder) / "x.safetensors"
            tensors.write(path, made)
            self.assertEqual(tensors.read(path.read_bytes()), {n: (d, s, b) for n, d, s, b in made})

    def test_ints_follow_demands_recipes_and_promises(self):
        maker = tensors.Maker(sample(), {"B": 2, "S": 40}, {}, 3)
        demanded = struct.unpack("<40i", maker.tensor("doc", "i32", [40]))
        self.assertTrue(demanded[0] == 64 and all(0 <= x <= 64 for x in demanded))
        artifact = sample()
        artifact.demands = []
        maker = tensors.Maker(artifact, {"B": 2, "S": 40}, {"doc": (1, 4)}, 3)
        ids = struct.unpack("<40i", maker.tensor("doc", "i32", [40]))
        self.assertEqual((list(ids), set(ids)), (sorted(ids), {1, 2, 3}))
        maker.recipes["doc"] = [0, 7, "S"]
        self.assertEqual(maker.tensor("doc", "i32", [3]), struct.pack("<3i", 0, 7, 40))

    def test_the_same_for_the_same_seed(self):
        one, two = (tensors.Maker(sample(), {"B": 1, "S": 4}, {}, seed).tensor("q", "bf16", [4, 1, 64]) for seed in (1, 2))
        again = tensors.Maker(sample(), {"B": 1, "S": 4}, {}, 1).tensor("q", "bf16", [4, 1, 64])
        self.assertEqual((len(one), one == two, one == again), (512, False, True))


class Layout(unittest.TestCase):
    def test_workspace_ignores_layout(self):
        spec = Record(role="workspace", layout=[1, 0])
        self.assertEqual(plan.laid_out(spec, [2, 3]), ([2, 3], [3, 1], [3, 1]))
        spec.role = "input"
        self.assertEqual(plan.laid_out(spec, [2, 3]), ([3, 2], [2, 1], [1, 2]))


if __name__ == "__main__":
    unittest.main()
