"""ALiBi: transformers' BloomAttention and MptAttention run on chosen q, k, v.

Goes out: alibi_* goldens and the table of Bloom's slopes.
"""

import torch
from transformers import BloomConfig, MptConfig
from transformers.models.bloom.modeling_bloom import BloomAttention, _get_alibi_slopes, build_alibi_tensor
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor

from common import Fixed, additive, generator, merge_heads, qkv, split_heads, write, write_table


def bloom(q, k, v):
    """Context before the output projection of BloomAttention, in f64 but for its f32 softmax."""
    b, h, s, d = q.shape
    config = BloomConfig(hidden_size=h * d, n_head=h, hidden_dropout=0.0, attention_dropout=0.0)
    module = BloomAttention(config, 0).double().eval()
    fused = torch.stack([q, k, v], dim=3).permute(0, 2, 1, 3, 4).reshape(b, s, h * 3 * d).double()
    module.query_key_value, module.dense = Fixed(fused), torch.nn.Identity()
    alibi = build_alibi_tensor(torch.ones(b, s), h, torch.float64)
    mask = additive(torch.ones(s, s).tril().bool())[None, None]
    hidden = torch.zeros(b, s, h * d, dtype=torch.float64)
    return split_heads(module(hidden, hidden, alibi, mask)[0], h)


def mpt(q, k, v):
    """Context before the output projection of MptAttention, in f64 but for its f32 softmax."""
    b, h, s, d = q.shape
    module = MptAttention(MptConfig(d_model=h * d, n_heads=h), 0).double().eval()
    fused = torch.cat([merge_heads(x) for x in (q, k, v)], dim=2).double()
    module.Wqkv, module.out_proj = Fixed(fused), torch.nn.Identity()
    bias = build_mpt_alibi_tensor(h, s).double()
    hidden = torch.zeros(b, s, h * d, dtype=torch.float64)
    masked = ~torch.ones(s, s).tril().bool()[None, None]
    return split_heads(module(hidden, bias, attention_mask=masked)[0], h)


def main():
    """Writes the whole family."""
    call = {"bloom": "BloomAttention(cfg, 0).double()(x, 0, build_alibi_tensor(ones, H, f64), causal), projections fixed",
            "mpt": "MptAttention(cfg, 0).double()(x, build_mpt_alibi_tensor(H, S), attention_mask=~causal), projections fixed"}
    for module, h, s, d in [(bloom, 8, 33, 32), (mpt, 8, 17, 32), (bloom, 12, 17, 32), (mpt, 12, 17, 32), (bloom, 4, 17, 80), (bloom, 40, 13, 16)]:
        name = f"alibi_{module.__name__}_h{h}_{s}"
        q, k, v = qkv(generator(name), 1, h, s, d)
        dims, inputs = dict(B=1, H=h, S=s, D=d), dict(q=q, k=k, v=v)
        kernel = "alibi"
        if h in (12, 40):
            kernel = "alibi_slopes"
            inputs["slope"] = _get_alibi_slopes(h, "cpu") if module is bloom else -build_mpt_alibi_tensor(h, 2)[:, 0, 0]
        write(name, "alibi.attn", kernel, dims, inputs, dict(o=module(q, k, v)), call[module.__name__], "transformers", note="softmax inside is f32")
    slopes = {f"slopes_{h}": _get_alibi_slopes(h, "cpu") for h in [1, 2, 4, 8, 12, 16, 20, 40, 71, 112]}
    write_table("table_alibi_slopes", slopes, "transformers.models.bloom.modeling_bloom._get_alibi_slopes(H, 'cpu')", "transformers",
                note="f32 by repeated powers: equal to the closed form to 1e-6 relative, not bit for bit")


if __name__ == "__main__":
    main()
