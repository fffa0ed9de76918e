"""Tests of the kit that need no GPU: `python3 -m unittest discover -s benches/gpu/tests -t benches/gpu`. Standard library; torch where
it is there. With ATTNC (a binary) and ATTN_LLVM (its worker) in the environment, packages of real kernels too.
"""

import sys
from pathlib import Path

GPU = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(GPU), str(GPU / "kit")]
sys.dont_write_bytecode = True
