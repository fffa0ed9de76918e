"""The acceptance matrix in f16 and bf16: the family scripts run again on inputs that the type holds exactly.

Comes in: the scripts of the families, unchanged; `normal` and `qkv` are replaced by rounding ones while they run, and what they
would write is dropped but for the cases in CASES. Goes out: <name>_f16, <name>_bf16 goldens. The outputs are f64 mathematics
on the rounded inputs, by the same two oracles as the file in f32; what a kernel declares `float` is stored in the low type.
"""

import re

import torch

import alibi
import bigbird
import common
import dense
import derived
import gqa
import lightning
import patterns
import recurrences
import relative
import ring
import rope
import rope_grid
import rope_scaling
import routed
import serving
import sinks
import slopes
import softcap
import sparse
import t5
import windows

CASES = {
    dense: ["dense_17x33_d32", "causal_br_17x65_d32", "causal_tl_17x33_d32"],
    gqa: ["mqa_decode_8over1_1x50_d16", "gqa_interleaved_4over2_33_d32"],
    alibi: ["alibi_mpt_h8_17", "alibi_bloom_h12_17", "alibi_bloom_h40_13"],
    relative: ["shaw_33_d32", "alibi_falcon_h4_33", "alibi_both_h8_17", "alibi_both_h12_17", "alibi_both_h40_13", "longt5_local_49_r12"],
    t5: ["t5_decoder_17_d64", "t5_encoder_33_d16"],
    rope: ["rope_half_65_d64", "rope_interleaved_65_d64", "rope_pi_65_d32"],
    rope_scaling: [
        "absolute_learned_33_d32", "xpos_33_gamma512", "rope_sections_33_d32", "rope_dyn_ntk_3x65_len129", "rope_yarn_factor_33_d32", "rope_yarn_mscale_33_d32",
        "rope_llama3_gqa_5x65_d32", "rope_longrope_short_33_d16", "rope_ntk_65_d32", "rope_partial_interleaved_33_d40",
    ],
    rope_grid: [
        "rope_grid_half_ntk", "rope_grid_interleaved_pi", "rope_grid_interleaved_dyn_ntk", "rope_grid_interleaved_llama3", "rope_grid_interleaved_longrope",
        "rope_grid_partial_pi", "rope_grid_partial_ntk", "rope_grid_partial_dyn_ntk", "rope_grid_partial_yarn", "rope_grid_partial_llama3",
        "rope_grid_partial_longrope",
    ],
    windows: ["window_causal_w7_33x17", "window_fa_l7_r3_17x45", "window_longformer_w16_64"],
    sinks: ["sinks_33x17_w128_keep4"],
    softcap: ["softcap_causal_33_c5"],
    patterns: ["pattern_dilated_gym_45", "pattern_strided_65", "pattern_fixed_129", "pattern_chunked_65"],
    sparse: [
        "buckets_causal_77_w16", "block_diagonal_77_w16", "longformer_separate_64", "longformer_dilated_65", "longt5_tglobal_73", "nsa_max_77", "dsa_45", "moba_77",
        "host_blocks_bigbird_eval",
    ],
    derived: ["diag_norm_41"],
    bigbird: ["bigbird_b16_192_train", "bigbird_b64_1024_train"],
    routed: ["colt5_paper_65"],
    serving: ["decode_paged_4x50", "read_int8_3x37", "tree_verify_7", "merge_thirds_33", "merge_prefix_6"],
    ring: ["ring_contiguous_67", "ring_striped_67", "ring_zigzag_67"],
    lightning: ["lightning_33"],
    recurrences: ["linear_65", "linear_elu1_65", "lightning_layer_65", "minimax_layer_41", "transnormer_layer_33"],
    slopes: ["lightning_fla_33", "lightning_tnl_33", "lightning_paper_33"],
}  # fmt: skip
DRAWING = [*CASES, recurrences]


def floats(spec, kernel):
    """Names that a kernel declares `float`, those of branches with the branch before them; True for caches."""
    path = common.ROOT / (spec if "/" in spec else f"{common.SPECS}/{spec}")
    text = re.split(rf"^(?:attention|recurrence) {kernel}\b", path.read_text(), flags=re.M)[1].split("\n}")[0]
    names, branch = {}, ""
    for line in text.splitlines():
        if found := re.match(r"\s*branch (\w+)", line):
            branch = found[1] + "."
        if line.strip() == "}":
            branch = ""
        if found := re.match(r"\s*(input|cache) ([\w, ]+?)\s*: float", line):
            names |= {branch + name.strip(): found[1] == "cache" for name in found[2].split(",")}
    return names


def stored(name, tensors, which, dtype):
    """The tensors with those named in the low type; an error where one is not exact in it. Free slots of caches hold anything."""
    out = {}
    for key, value in tensors.items():
        out[key] = value.to(common.DTYPES[dtype]) if key in which else value
        if not which.get(key) and not torch.equal(out[key].double(), value.double()):
            raise ValueError(f"{name}: {key} does not fit {dtype}")
    return out


class Rounding:
    """Stands in for what the families take from `common`, and keeps the wanted cases."""

    def __init__(self, dtype, wanted):
        self.dtype, self.wanted = dtype, set(wanted)

    def normal(self, gen, *shape, scale=1.0, dtype="f32"):
        """Values of the low type, held in f32; of another type where a family asks for one. All are multiples of 2^-16, so that a
        family may divide them by 8 and none gets lost in f16's smallest numbers."""
        values = common.normal(gen, *shape, scale=scale, dtype=dtype)
        return torch.round(values.to(common.DTYPES[self.dtype]).float() * 65536) / 65536 if dtype == "f32" else values

    def qkv(self, gen, b, h, s, d, dtype="f32"):
        """Three of them."""
        return [self.normal(gen, b, h, s, d, dtype=dtype) for _ in range(3)]

    def keep(self, name, spec, kernel, inputs, updated, rest):
        """New name and arguments of a wanted case, None of another."""
        if name not in self.wanted:
            return None
        self.wanted.remove(name)
        linear = rest.pop("tolerance_class", None) == "f32_linear"
        which = floats(spec, kernel)
        more = dict(dtype=self.dtype, tolerance_class=self.dtype + ("_linear" if linear else ""))
        if updated:
            more["updated"] = stored(name, updated, which, self.dtype)
        return f"{name}_{self.dtype}", stored(name, inputs, which, self.dtype), rest | more

    def write(self, name, spec, kernel, dims, inputs, outputs, call, package="torch", params=None, updated=None, **rest):
        """As `common.write`."""
        if kept := self.keep(name, spec, kernel, inputs, updated, rest):
            name, inputs, rest = kept
            common.write(name, spec, kernel, dims, inputs, outputs, call, package, params, **rest)

    def write_twice(self, name, mechanism, spec, kernel, dims, inputs, outputs, second, call, package, updated=None, second_updated=None, **rest):
        """As `common.write_twice`."""
        if kept := self.keep(name, spec, kernel, inputs, updated, rest):
            second_updated = stored(name, second_updated or {}, floats(spec, kernel), self.dtype)
            name, inputs, rest = kept
            rest["limit"] = max(rest.get("limit", 0), 2e-6)  # slopes rounded to f32 are no part of this
            common.write_twice(name, f"{mechanism}, {self.dtype}", spec, kernel, dims, inputs, outputs, second, call, package, second_updated=second_updated, **rest)


def main():
    """Writes both types."""
    names = ("normal", "qkv", "write", "write_twice")
    write_table = lambda *_, **__: None
    for dtype in ("f16", "bf16"):
        stand_in = Rounding(dtype, sum(CASES.values(), []))
        before = [(family, name, getattr(family, name)) for family in DRAWING for name in (*names, "write_table") if hasattr(family, name)]
        for family, name, _ in before:
            setattr(family, name, getattr(stand_in, name, write_table))
        for family in CASES:
            family.main()
        for family, name, value in before:
            setattr(family, name, value)
        if stand_in.wanted:
            raise ValueError(f"no script made {sorted(stand_in.wanted)}")


if __name__ == "__main__":
    main()
