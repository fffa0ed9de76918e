"""Makes every golden but MiniLM's anew. Run from anywhere: python tests/oracles/make_all.py"""

import alibi
import bigbird
import dense
import derived
import gqa
import lightning
import low
import page
import patterns
import recurrences
import relative
import ring
import rope
import rope_grid
import rope_scaling
import routed
import sequences
import serving
import sinks
import slopes
import softcap
import sparse
import t5
import unnormalised
import weights
import windows

FIRST = (dense, gqa, alibi, t5, windows, sinks, softcap, sequences, bigbird, unnormalised, patterns, rope, lightning)
SECOND = (rope_scaling, rope_grid, relative, sparse, routed, weights, derived, recurrences, slopes, serving, ring)  # each with two oracles

if __name__ == "__main__":
    for family in (*FIRST, *SECOND, low):
        family.main()
    page.main()
