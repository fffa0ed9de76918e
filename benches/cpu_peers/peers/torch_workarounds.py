"""What people write around SDPA where it has no mechanism: masks in memory, blocks of queries, a call for each document."""

import torch

from peers import dense
from peers.base import NATIVE, WORKAROUND, Call, No, Peer
from peers.torch_common import fetch, load, sdpa


def added(case, t):
    """f32 tensor [1, H or 1, Sq, Sk]: bias and mask in one."""
    return torch.from_numpy(dense.added(case, t, float("-inf")))


class Torch(Peer):
    """What the workarounds share."""

    def version(self):
        return torch.__version__


class Mask(Torch):
    """One call with a mask (and bias) of N x N elements, made once and not timed."""

    name = "SDPA, mask in memory"

    def can(self, case):
        return WORKAROUND if case.kind in ("window", "alibi", "t5", "documents") else No("not needed, or not enough")

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        mask = added(case, tensors).to(q.dtype)
        return Call(lambda: sdpa(q, k, v, attn_mask=mask, scale=case.scale), fetch)


class Blocked(Torch):
    """A loop over blocks of 256 queries, each against the keys that it can see, with a small mask."""

    name = "SDPA, blocks of queries"

    def can(self, case):
        return WORKAROUND if case.window else No("for windows")

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        n, w, step = case.sq, case.window, 256
        spans, masks = [(low, max(low - w, 0), min(low + step, n)) for low in range(0, n, step)], {}
        for low, first, end in spans:
            i, j = torch.arange(low, end)[:, None], torch.arange(first, end)[None]
            shape = torch.zeros(end - low, end - first).masked_fill_((j > i) | (i - j >= w), float("-inf"))
            masks.setdefault((end - low, end - first), shape[None, None].to(q.dtype))

        def run():
            out = torch.empty_like(q)
            for low, first, end in spans:
                keys, values = k[:, :, first:end], v[:, :, first:end]
                out[:, :, low:end] = sdpa(q[:, :, low:end], keys, values, attn_mask=masks[end - low, end - first])
            return out

        return Call(run, fetch)


class Folded(Torch):
    """The blocks as a batch: overlapping views of the keys, one call for all but the first block."""

    name = "SDPA, blocks as a batch"

    def can(self, case):
        return WORKAROUND if case.window and case.sq % case.window == 0 else No("for windows that divide the length")

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        w, h, d, n = case.window, case.hq, case.d, case.sq
        blocks, i, j = n // w - 1, torch.arange(w)[:, None], torch.arange(2 * w)[None]
        mask = torch.zeros(w, 2 * w).masked_fill_((j > i + w) | (j <= i), float("-inf"))[None, None].to(q.dtype)

        def run():
            rest = q[0, :, w:].view(h, blocks, w, d).transpose(0, 1)
            keys, values = (x.as_strided((blocks, h, 2 * w, d), (w * d, n * d, d, 1)) for x in (k, v))
            out = torch.empty_like(q)
            out[:, :, :w] = sdpa(q[:, :, :w], k[:, :, :w], v[:, :, :w], is_causal=True)
            out[0, :, w:].view(h, blocks, w, d).copy_(sdpa(rest, keys, values, attn_mask=mask).transpose(0, 1))
            return out

        return Call(run, fetch)


class PerDocument(Torch):
    """One causal call for each document."""

    name = "SDPA, call per document"

    def can(self, case):
        return WORKAROUND if case.documents else No("for documents")

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        n = case.sq // case.documents
        spans = [slice(low, low + n) for low in range(0, case.sq, n)]

        def run():
            out = torch.empty_like(q)
            for s in spans:
                out[:, :, s] = sdpa(q[:, :, s], k[:, :, s], v[:, :, s], is_causal=True)
            return out

        return Call(run, fetch)


class Eager(Torch):
    """Scores in memory, in plain torch: the way without any attention call."""

    name = "torch, scores in memory"

    def can(self, case):
        if case.kind not in ("softcap", "causal") or case.dtype != "f32" or case.hq != case.hkv or case.sq > 2048:
            return No("measured for soft caps and plain causal attention up to 2048")
        return WORKAROUND if case.kind == "softcap" or case.lse else NATIVE

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        mask = added(case, tensors)

        def run():
            s = (q * case.scale) @ k.transpose(-1, -2)
            if case.cap:
                s = s.div_(case.cap).tanh_().mul_(case.cap)
            s += mask
            return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1) if case.lse else None

        return Call(run, lambda r: (r[0][0].numpy(), r[1][0].numpy() if case.lse else None))


PEERS = [Mask(), Blocked(), Folded(), PerDocument(), Eager()]
