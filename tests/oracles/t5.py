"""T5's bucketed relative bias: transformers' T5Attention.

Goes out: the bucket tables as integers for distances 0..4096, and t5_* goldens of whole layers.
"""

import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from common import Fixed, additive, generator, merge_heads, normal, qkv, split_heads, write, write_table


def t5(q, k, v, rel, decoder):
    """Context before the output projection of T5Attention in f64; `rel` is [H, R]."""
    b, h, s, d = q.shape
    config = T5Config(d_model=h * d, d_kv=d, num_heads=h, is_decoder=decoder, attn_implementation="eager")
    module = T5Attention(config, has_relative_attention_bias=True, layer_idx=0, is_causal=decoder).double().eval()
    module.q, module.k, module.v = (Fixed(merge_heads(x).double()) for x in (q, k, v))
    module.o = torch.nn.Identity()
    module.relative_attention_bias.weight.copy_(rel.T.double())
    mask = additive(torch.ones(s, s).tril().bool())[None, None] if decoder else None
    hidden = torch.zeros(b, s, h * d, dtype=torch.float64)
    return split_heads(module(hidden, mask=mask)[0], h)


def tables():
    """Buckets of every distance, for the parameters of released models and two odd ones."""
    out = {}
    past = -torch.arange(0, 4097)
    both = torch.arange(-4096, 4097)
    for n, far in [(32, 128), (32, 256), (64, 128), (20, 100)]:
        bucket = T5Attention._relative_position_bucket
        out[f"causal_{n}_{far}"] = bucket(past, bidirectional=False, num_buckets=n, max_distance=far).int()
        if (n, far) == (32, 128):
            out[f"both_{n}_{far}"] = bucket(both, bidirectional=True, num_buckets=n, max_distance=far).int()
    write_table("table_t5_buckets", out, "T5Attention._relative_position_bucket(j - i, bidirectional, num_buckets, max_distance)", "transformers",
                note="causal_N_FAR[d]: bucket of i - j = d, 0..4096. both_N_FAR[d + 4096]: bucket of j - i = d, -4096..4096")


def main():
    """Writes the whole family."""
    tables()
    for kind, s, d in [("decoder", 129, 32), ("encoder", 129, 32), ("decoder", 17, 64), ("encoder", 33, 16)]:
        name = f"t5_{kind}_{s}_d{d}"
        gen = generator(name)
        h = 1 if s == 129 else 2
        q, k, v = qkv(gen, 1, h, s, d)
        q = q * d**-0.5
        rel = normal(gen, h, 32)
        o = t5(q, k, v, rel, kind == "decoder")
        call = f"T5Attention(cfg, has_relative_attention_bias=True, is_causal={kind == 'decoder'}).double()(x, mask), projections fixed, eager"
        write(name, "t5.attn", f"t5_{kind}_self", dict(B=1, H=h, S=s, D=d, R=32), dict(q=q, k=k, v=v, rel=rel), dict(o=o), call, "transformers",
              note="q is drawn with deviation 1/sqrt(D), as T5's initialisation makes it: the score has no scale")


if __name__ == "__main__":
    main()
