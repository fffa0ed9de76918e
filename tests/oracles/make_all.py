"""Makes every golden but MiniLM's anew. Run from anywhere: python tests/oracles/make_all.py"""

import alibi
import bigbird
import dense
import gqa
import lightning
import patterns
import rope
import sequences
import sinks
import softcap
import t5
import unnormalised
import windows

if __name__ == "__main__":
    for family in (dense, gqa, alibi, t5, windows, sinks, softcap, sequences, bigbird, unnormalised, patterns, rope, lightning):
        family.main()
