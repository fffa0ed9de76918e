"""Linear attention with decay: transformers' MiniMaxLightningAttention on chosen q, k, v.

Goes out: lightning_* goldens: the output before norm and gate, and the state after the last step.
"""

from types import SimpleNamespace

import torch
from transformers import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

from common import Fixed, generator, normal, split_heads, write

LAYER, LAYERS, BLOCK = 1, 4, 16


def minimax(q, k, v, s0=None):
    """Output and state in f64, in blocks of 16; step by step from the state `s0` where one is given."""
    b, h, s, d = q.shape
    config = MiniMaxConfig(hidden_size=h * d, num_attention_heads=h, num_key_value_heads=h, head_dim=d, num_hidden_layers=LAYERS, block_size=BLOCK,
                           layer_types=["linear_attention"] * LAYERS)
    module = MiniMaxLightningAttention(config, LAYER).double().eval()
    slope = module.get_slope_rate().float()
    module.slope_rate = slope.double()
    module.query_decay, module.key_decay, module.diagonal_decay = module.decay_factors(slope.double())
    fused = torch.cat([x.double() for x in (q, k, v)], dim=-1).transpose(1, 2).reshape(b, s, 3 * h * d)
    module.qkv_proj, module.act_fn, module.norm, module.out_proj = Fixed(fused), torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()
    module.output_gate = Fixed(torch.full((b, s, h * d), 1e3, dtype=torch.float64))
    cache = None if s0 is None else SimpleNamespace(get_linear_cache=lambda _: s0.double(), set_linear_cache=lambda *_: None)
    o, state = module(torch.zeros(b, s, h * d, dtype=torch.float64), (None, None), None, cache)
    return split_heads(o, h), state, slope[:, 0, 0]


def main():
    """Writes the whole family."""
    for s, start in [(33, False), (129, False), (17, True)]:
        name = f"lightning_{s}" + ("_state" if start else "")
        gen, d = generator(name), 32
        q, k, v = (normal(gen, 1, 4 if s < 129 else 1, s, d) for _ in range(3))
        s0 = normal(gen, 1, 4, d, d) if start else None
        o, state, slope = minimax(q, k, v, s0)
        inputs = dict(q=q, k=k, v=v, slope=slope) | (dict(s0=s0) if start else {})
        call = f"MiniMaxLightningAttention(layer {LAYER} of {LAYERS}, block_size={BLOCK}).double()(x), projections fixed, no norm, gate 1"
        write(name, "lightning.attn", "lightning", dict(B=1, H=q.shape[1], S=s, D=d, Dv=d), inputs, dict(o=o, s=state), call, "transformers",
              kind="recurrence", tolerance_class="f32_linear")


if __name__ == "__main__":
    main()
