"""Soft-capped scores: transformers' gemma2 attention function.

Goes out: softcap_* goldens.
"""

from types import SimpleNamespace

import torch
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from common import additive, generator, indices, normal, write


def main():
    """Writes the whole family. Queries are drawn large enough for the cap to bite."""
    call = "gemma2.modeling_gemma2.eager_attention_forward(module, q, k, v, additive mask, scaling=scale, softcap=c) on f64 copies"
    for kernel, s, d, c, scale, window in [("softcap_causal", 33, 64, 50.0, 0.125, None), ("softcap_causal", 33, 32, 5.0, 0.25, None),
                                           ("softcap_window", 33, 80, 50.0, 0.0625, 16)]:
        name = f"{kernel}_{s}_c{int(c)}"
        gen = generator(name)
        q, k, v = normal(gen, 1, 2, s, d, scale=4.0), normal(gen, 1, 1, s, d), normal(gen, 1, 1, s, d)
        i, j = indices(q, k)
        zero = torch.zeros_like(i + j)
        rule = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
        mask = additive(rule(zero, zero, i + zero, j + zero))
        module = SimpleNamespace(num_key_value_groups=2, training=False, head_dim=d)
        o, _ = eager_attention_forward(module, q.double(), k.double(), v.double(), mask, scaling=scale, softcap=c)
        params = dict(c=c, scale=scale) | ({} if window is None else dict(window=window))
        write(name, "softcap.attn", kernel, dict(B=1, Hq=2, Hkv=1, S=s, D=d), dict(q=q, k=k, v=v), dict(o=o.transpose(1, 2)), call, "transformers",
              params, note="softmax inside is f32; max |score before the cap| is about 20 to 40")


if __name__ == "__main__":
    main()
