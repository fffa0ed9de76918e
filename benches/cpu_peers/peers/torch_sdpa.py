"""torch.nn.functional.scaled_dot_product_attention: the CPU flash kernel, without masks but the causal one."""

import torch

from peers.base import NATIVE, Call, No, Peer
from peers.torch_common import fetch, load, sdpa


class Sdpa(Peer):
    """is_causal, grouped heads; the call beneath it where lse is wanted."""

    name = "torch SDPA"
    by_token = True

    def version(self):
        return torch.__version__

    def can(self, case):
        if case.kind not in ("causal", "full", "decode"):
            return No(f"no {case.kind}; see the workarounds")
        return No("no int8 cache") if case.dtype == "int8" else NATIVE

    def prepare(self, case, tensors, threads):
        q, k, v = load(case, tensors, threads)
        grouped = case.hq != case.hkv
        if case.lse:
            flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return Call(lambda: flash(q, k, v, 0.0, True), lambda r: (r[0][0].numpy(), r[1][0].numpy()))
        return Call(lambda: sdpa(q, k, v, is_causal=case.causal, enable_gqa=grouped), fetch)


PEERS = [Sdpa()]
