"""Sink tokens and the learned sink logit: transformers' gpt-oss attention function.

Goes out: sinks_* goldens.
"""

from types import SimpleNamespace

import torch
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from common import additive, generator, indices, normal, write


def main():
    """Writes the whole family."""
    call = "gpt_oss.modeling_gpt_oss.eager_attention_forward(module, q, k, v, additive mask, 1/sqrt(D)) on f64 copies; lse = torch.logsumexp(cat(f64 scores, sink))"
    for hq, hkv, sq, sk, d, window, keep in [(4, 2, 33, 33, 32, 1 << 20, 0), (2, 1, 129, 129, 32, 16, 0), (4, 2, 33, 129, 32, 16, 4), (4, 2, 33, 17, 32, 128, 4)]:
        name = f"sinks_{sq}x{sk}_" + (f"w{window}_keep{keep}" if window < 1 << 20 else "all")
        gen = generator(name)
        q, k, v = normal(gen, 1, hq, sq, d), normal(gen, 1, hkv, sk, d), normal(gen, 1, hkv, sk, d)
        sink = normal(gen, hq)
        i, j = indices(q, k, "bottom_right")
        mask = additive((j <= i) & ((j > i - window) | (j < keep)))
        module = SimpleNamespace(num_key_value_groups=hq // hkv, sinks=sink.double(), training=False)
        o, _ = eager_attention_forward(module, q.double(), k.double(), v.double(), mask, d**-0.5)
        s = q.double() @ k.repeat_interleave(hq // hkv, 1).double().transpose(-1, -2) / d**0.5 + mask
        lse = torch.logsumexp(torch.cat([s, sink.double()[None, :, None, None].expand(1, -1, sq, 1)], -1), -1)
        dims = dict(B=1, Hq=hq, Hkv=hkv, Sq=sq, Sk=sk, D=d)
        note = f"rows 0..{sq - sk} see no key: o is 0, lse is the sink" if sq > sk else ""
        write(name, "sinks.attn", "swa_sinks", dims, dict(q=q, k=k, v=v, sink=sink), dict(o=o.transpose(1, 2), lse=lse), call, "transformers",
              dict(window=window, keep=keep), note=note)


if __name__ == "__main__":
    main()
