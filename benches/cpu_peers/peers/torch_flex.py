"""torch's FlexAttention through torch.compile: scores and masks as functions, block masks made once and not timed."""

import torch
import torch.nn.attention.flex_attention as fa

from peers.base import NATIVE, Call, No, Peer
from peers.torch_common import fetch, load


def mask_of(case, t):
    """The mask function of a case, or None where every key is seen."""
    if not case.causal:
        return None
    if case.window:
        return lambda b, h, i, j: (j <= i) & (i - j < case.window)
    if case.documents:
        doc = torch.from_numpy(t["doc"])
        return lambda b, h, i, j: (j <= i) & (doc[i] == doc[j])
    return lambda b, h, i, j: j <= i


def score_of(case, t):
    """The score function of a case, or None."""
    if case.kind == "alibi":
        slope = torch.from_numpy(t["slope"])
        return lambda s, b, h, i, j: s - slope[h] * (i - j)
    if case.kind == "softcap":
        return lambda s, b, h, i, j: case.cap * torch.tanh(s / case.cap)
    if case.kind == "t5":
        rel, bucket = torch.from_numpy(t["rel"]), torch.from_numpy(t["bucket"]).long()
        return lambda s, b, h, i, j: s + rel[h, bucket[torch.clamp(i - j, min=0)]]
    return None


class Flex(Peer):
    """Compiled anew for each case and number of threads, for the exact shape."""

    name = "FlexAttention"
    by_token = True

    def version(self):
        return torch.__version__

    def can(self, case):
        if case.lse:
            return No("return_lse is not supported on CPUs")
        return No("no int8 cache") if case.dtype == "int8" else NATIVE

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        torch._dynamo.reset()
        seen = mask_of(case, tensors)
        block = seen and fa.create_block_mask(seen, None, None, case.sq, case.sk, device="cpu")
        options = dict(score_mod=score_of(case, tensors), block_mask=block, scale=case.scale, enable_gqa=case.hq != case.hkv)
        flex = torch.compile(fa.flex_attention, dynamic=False)
        return Call(lambda: flex(q, k, v, **options), fetch)


PEERS = [Flex()]
