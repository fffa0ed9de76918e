"""What is checked: every kernel of `dsl-examples/`, its sizes, and how its inputs are drawn. Standard library only."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "dsl-examples"

SIZES = {"B": 1, "S": 97, "Sq": 65, "Sk": 130, "T": 97, "Sp": 70, "G": 7, "L": 80, "N": 4, "Tq": 65, "Tk": 130}
"""By the name of a dim; what is not here (heads, features, pages) attnc makes up."""

SIZES_OF = {
    "gqa_decode": {"Sq": 5, "Sk": 129},
    "gqa_decode_int8": {"Sq": 5, "Sk": 129},
    "tree": {"T": 33, "Sk": 130},
    "chunked_prefill": {"Sq": 33, "Sk": 150},
    "longt5_tglobal": {"R": 32},
    "shaw": {"R": 18},
    "alibi_40": {"S": 65},
}
PARAMS = {"rope_dyn_ntk": {"seen": 65}}

RECIPES = {
    "bigbird_plan": {"count": (0, 3)},
    "host_blocks": {"list": (-1, 3)},
    "learned_positions": {"pos": (0, "L")},
    "rope_tensor_positions": {"pos": (0, "S")},
    "mrope": {"pos": (0, "S")},
    "prefix_lm": {"prefix": (0, "S")},
    "minilm": {"len": (1, "S")},
    "tree": {"ctx": (0, 90)},
    "doc_causal": {"doc": (0, 5)},
    "packed_cu": {"cu": [0, 40, 41, "T"]},
    "packed_cross": {"cq": [0, 20, 21, "Tq"], "ck": [0, 50, 90, "Tk"]},
    "gqa_decode_int8": {"k": (-127, 128), "v": (-127, 128), "k_scale": "scale", "v_scale": "scale"},
    "fox": {"logf": "falling"},
    "gated_delta": {"a": "falling", "beta": "share"},
    "simple_gla": {"g": "falling"},
    "minimax": {"slope": "rising"},
    "transnormer": {"slope": "rising"},
}
"""How an input of a kernel is drawn: a name of `tensors.DRAWS`, ints from a to below b, or a list of ints. Others are normal."""

ROWS = {"q", "k", "v"}
"""Rows of a recurrence have a length of about 1, so that its state stays finite."""

ALSO = {
    "f16": ["causal", "bidirectional", "alibi", "swa_sinks", "softcap_window", "rope", "doc_causal", "gqa_decode", "moba", "lightning"],
    "f32": ["causal", "bidirectional", "alibi", "swa_sinks", "softcap_window", "rope", "doc_causal", "gqa_decode", "t5_decoder", "lightning"],
}
"""Besides bf16, which all have."""

QUICK = {"causal", "bidirectional", "alibi", "swa_sinks", "softcap_window", "rope", "doc_causal", "gqa_decode", "chunked_prefill"}
QUICK |= {"bigbird", "block_mask", "t5_decoder", "lightning", "gated_delta", "mla", "nsa"}
"""Checked with --quick."""

BATCHED = QUICK | {"block_mask", "prefix_lm", "minilm", "tree", "mrope", "learned_positions", "rope_tensor_positions", "moba", "routed"}
BATCHED |= {"gqa_decode_int8", "shared_prefix", "colt5", "host_blocks", "longformer_global", "fox", "simple_gla"}
"""Checked with two sequences; the others with one, since the kit travels."""

LONGER = {"causal": {"Sq": 300, "Sk": 417, "D": 128}, "bidirectional": {"Sq": 300, "Sk": 417, "D": 128}, "softcap_window": {"S": 300, "D": 128}}
"""Checked a second time, at these sizes, with one sequence."""


def kernels(folder=EXAMPLES):
    """(file, kernel, whether it is a recurrence) of every kernel."""
    found = []
    for path in sorted(folder.glob("*.attn")):
        for kind, name in re.findall(r"^(attention|recurrence)\s+(\w+)", path.read_text(), re.M):
            found.append((path, name, kind == "recurrence"))
    return found


def checks():
    """Every check: a dict of id, file, kernel, dtype, sizes, parameters, recipes, quick."""
    out = []
    for path, kernel, recurs in kernels():
        recipes = dict.fromkeys(ROWS, "row") if recurs else {}
        recipes |= RECIPES.get(kernel, {})
        common = dict(file=path.name, kernel=kernel, params=PARAMS.get(kernel, {}), recipes=recipes)
        sizes = SIZES | ({"B": 2} if kernel in BATCHED else {}) | SIZES_OF.get(kernel, {})
        for dtype in ["bf16", *(d for d, names in ALSO.items() if kernel in names)]:
            quick = kernel in QUICK and dtype == "bf16"
            fewer = {} if dtype == "bf16" else {"B": 1}
            out.append(dict(common, id=f"{kernel}-{dtype}", dtype=dtype, sizes=sizes | fewer, quick=quick))
        if kernel in LONGER:
            out.append(dict(common, id=f"{kernel}-bf16-long", dtype="bf16", sizes=sizes | {"B": 1} | LONGER[kernel], quick=False))
    return out
