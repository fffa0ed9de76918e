"""Makes every golden but MiniLM's anew. Run from anywhere: python tests/oracles/make_all.py"""

import alibi
import bigbird
import dense
import derived
import gqa
import lightning
import page
import patterns
import recurrences
import relative
import ring
import rope
import rope_scaling
import routed
import sequences
import serving
import sinks
import softcap
import sparse
import t5
import unnormalised
import weights
import windows

FIRST = (dense, gqa, alibi, t5, windows, sinks, softcap, sequences, bigbird, unnormalised, patterns, rope, lightning)
SECOND = (rope_scaling, relative, sparse, routed, weights, derived, recurrences, serving, ring)  # each with two oracles

if __name__ == "__main__":
    for family in FIRST + SECOND:
        family.main()
    page.main()
