"""The rotary family beyond the plain rule, and other positions: transformers, x-transformers, local-attention,
rotary-embedding-torch; causal SDPA after them.

Goes out: rope_*, pixel_*, xpos_*, lrpe_*, absolute_* goldens. Angles, cos and sin are f32 as in the packages, the
rotation and the attention f64. The second oracle turns pairs as complex numbers with frequencies formed in f64 and
rounded to f32.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from local_attention import rotary as local_rotary
from rotary_embedding_torch import rotary_embedding_torch as lucid_rotary
from transformers import LlamaConfig, Qwen2VLTextConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings
from x_transformers import x_transformers

from common import dense, dots, generator, normal, qkv, spread, write_twice
from rope import half, interleaved


def causal(q, k):
    """Causal mask with the last query on the last key."""
    sq, sk = q.shape[-2], k.shape[-2]
    return torch.arange(sk)[None] <= torch.arange(sq)[:, None] + sk - sq


def attend(q, k, v, mask=None):
    """SDPA in f64, key heads grouped."""
    mask = causal(q, k) if mask is None else mask
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def hf_freqs(kind, d, length=None, limit=512, **rope):
    """inv_freq (f32) and attention factor of transformers."""
    config = LlamaConfig(hidden_size=2 * d, num_attention_heads=2, max_position_embeddings=limit, rope_parameters=dict(rope_type=kind, **rope))
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)


def table(inv, pos, factor=1.0):
    """cos and sin [1, S, 2 * len(inv)], f32, the two halves alike."""
    angle = pos.float()[..., None] * inv.float()
    angle = torch.cat([angle, angle], -1)
    return angle.cos() * factor, angle.sin() * factor


def powers(d, theta):
    """Plain frequencies in f64."""
    return theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)


def yarn(d, theta, factor, original, fast=32.0, slow=1.0):
    """YaRN's blend, f64, bounds truncated."""
    bound = lambda turns: d * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))
    lo, hi = max(math.floor(bound(fast)), 0), min(math.ceil(bound(slow)), d - 1)
    ramp = ((torch.arange(d // 2, dtype=torch.float64) - lo) / (hi - lo if hi > lo else 0.001)).clamp(0, 1)
    f = powers(d, theta)
    return f * (1 - ramp) + f / factor * ramp


def turn(x, inv, pos, inter=False, factor=1.0):
    """Second oracle: pairs as complex numbers, angle one f32 product."""
    angle = (pos.float()[..., None] * inv.float()).double()
    angle = angle[:, None] if angle.ndim == 3 else angle
    n = inv.shape[-1]
    a, b = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if inter else (slice(0, n), slice(n, 2 * n))
    z = torch.polar(torch.tensor(factor, dtype=torch.float64), angle) * torch.complex(x[..., a].double(), x[..., b].double())
    y = x.double().clone()
    y[..., a], y[..., b] = z.real, z.imag
    return y


def formula(q, k, v, inv, qpos, kpos, inter=False, factor=1.0, scale=1.0):
    """o and lse by the second oracle."""
    q, k = turn(q, inv, qpos, inter, factor), turn(k, inv, kpos, inter, factor)
    score = dots(q, k) * scale / math.sqrt(q.shape[-1])
    return dense(score, spread(v, q.shape[1]), causal(q, k))


def simple(kernel, d, s, kind, theta, own, note="", inter=False, mechanism="", scale=1.0, length=None, limit=512, own_factor=1.0, **rope):
    """A golden of one scaling rule of transformers."""
    q, k, v = qkv(generator(kernel), 1, 2, s, d)
    pos = torch.arange(s)[None]
    inv, factor = hf_freqs(kind, d, length, limit, rope_theta=theta, **rope)
    cos, sin = table(inv, pos, factor)
    qr, kr = interleaved(q, k, cos, sin) if inter else half(q, k, cos, sin, d)
    o = attend(qr * scale, kr, v)
    second = formula(q, k, v, own, pos, pos, inter, own_factor, scale)[0]
    call = f"ROPE_INIT_FUNCTIONS['{kind}'](rope_theta={theta}, {', '.join(f'{a}={b}' for a, b in rope.items())}), angles f32, {'gptj' if inter else 'llama'} apply_rotary_pos_emb and SDPA in f64"
    return q, k, v, o, second, call


def scalings():
    """Rules that transformers has."""

    def put(kernel, mechanism, d, s, *args, name=None, spec="rope_scaling.attn", more=None, **kw):
        q, k, v, o, second, call = simple(kernel if name is None else name, d, s, *args, **kw)
        write_twice(
            name or f"{kernel}_{s}_d{d}",
            mechanism,
            spec,
            kernel,
            dict(B=1, H=2, S=s, D=d) | ({"P": d // 2} if more else {}),
            dict(q=q, k=k, v=v) | (more or {}),
            dict(o=o),
            dict(o=second),
            call,
            "transformers",
            limit=4e-6,
        )

    put(
        "rope_yarn_qwen",
        "rope, yarn (default attention factor)",
        64,
        33,
        "yarn",
        1e6,
        yarn(64, 1e6, 4, 4096),
        own_factor=0.1 * math.log(4) + 1,
        factor=4.0,
        original_max_position_embeddings=4096,
    )
    put(
        "rope_yarn_factor",
        "rope, yarn with attn_factor",
        32,
        33,
        "yarn",
        1e4,
        yarn(32, 1e4, 8, 512, 16, 2),
        factor=8.0,
        original_max_position_embeddings=512,
        beta_fast=16.0,
        beta_slow=2.0,
        attention_factor=1.0,
    )
    m = lambda x: 0.1 * x * math.log(16) + 1
    put(
        "rope_yarn_mscale",
        "rope, yarn with mscale (DeepSeek), interleaved",
        32,
        33,
        "yarn",
        1e4,
        yarn(32, 1e4, 16, 64),
        own_factor=m(1.5) / m(0.8),
        inter=True,
        scale=m(0.8) ** 2,
        factor=16.0,
        original_max_position_embeddings=64,
        mscale=1.5,
        mscale_all_dim=0.8,
    )
    short = [1 + 0.25 * n for n in range(8)]
    long = [1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 14.0, 16.0]
    a = math.sqrt(1 + math.log(16) / math.log(64))
    for s, which in [(33, short), (65, long)]:
        own = powers(16, 1e4) / torch.tensor(which, dtype=torch.float64)
        word = "short" if which is short else "long"
        put(
            "rope_longrope",
            f"rope, longrope, {word} list",
            16,
            s,
            "longrope",
            1e4,
            own,
            own_factor=a,
            limit=1024,
            length=s,
            name=f"rope_longrope_{word}_{s}_d16",
            spec="rope_longrope.attn",
            more=dict(short=torch.tensor(short), long=torch.tensor(long)),
            factor=16.0,
            original_max_position_embeddings=64,
            short_factor=short,
            long_factor=long,
        )


def lengths():
    """Dynamic NTK with the length named, and Llama 3 at the end of a cache."""
    d = 32
    for seen, sq, sk in [(65, 65, 65), (20, 20, 20), (129, 3, 65)]:
        name = f"rope_dyn_ntk_{sq}x{sk}_len{seen}"
        gen = generator(name)
        q, k, v = normal(gen, 1, 2, sq, d), normal(gen, 1, 2, sk, d), normal(gen, 1, 2, sk, d)
        inv, _ = hf_freqs("dynamic", d, seen, 32, rope_theta=1e4, factor=4.0)
        pos = torch.arange(sk)[None]
        cos, sin = table(inv, pos)
        qr, kr = half(q, q, cos[:, sk - sq :], sin[:, sk - sq :], d)[0], half(k, k, cos, sin, d)[0]
        base = 1e4 * (4 * max(seen, 32) / 32 - 3) ** (d / (d - 2))
        second = formula(q, k, v, powers(d, base), pos[:, sk - sq :], pos)[0]
        write_twice(
            name,
            "rope, dynamic NTK with the length given",
            "rope_scaling.attn",
            "rope_dyn_ntk",
            dict(B=1, H=2, Sq=sq, Sk=sk, D=d),
            dict(q=q, k=k, v=v),
            dict(o=attend(qr, kr, v)),
            dict(o=second),
            f"ROPE_INIT_FUNCTIONS['dynamic'](factor=4, max_position_embeddings=32, seq_len={seen}), angles f32, llama apply_rotary_pos_emb and SDPA in f64",
            "transformers",
            params=dict(seen=seen),
            limit=4e-6,
        )
    name, sq, sk = "rope_llama3_gqa_5x65_d32", 5, 65
    gen = generator(name)
    q, k, v = normal(gen, 2, 4, sq, d), normal(gen, 2, 2, sk, d), normal(gen, 2, 2, sk, d)
    inv, _ = hf_freqs("llama3", d, rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256)
    pos = torch.arange(sk)[None]
    cos, sin = table(inv, pos)
    qr, kr = half(q, q, cos[:, sk - sq :], sin[:, sk - sq :], d)[0], half(k, k, cos, sin, d)[0]
    f = powers(d, 5e5)
    share = ((256 * f / (2 * math.pi) - 1) / 3).clamp(0, 1)
    o2, lse2 = formula(q, k, v, share * f + (1 - share) * f / 8, pos[:, sk - sq :], pos)
    lse = torch.logsumexp((dots(qr, kr) / math.sqrt(d)).masked_fill(~causal(q, k), float("-inf")), -1)
    write_twice(
        name,
        "rope, llama3, grouped heads, decode",
        "rope_scaling.attn",
        "rope_llama3_gqa",
        dict(B=2, Hq=4, Hkv=2, Sq=sq, Sk=sk, D=d),
        dict(q=q, k=k, v=v),
        dict(o=attend(qr, kr, v), lse=lse),
        dict(o=o2, lse=lse2),
        "ROPE_INIT_FUNCTIONS['llama3'], llama apply_rotary_pos_emb at positions 60..64, SDPA(enable_gqa=True) in f64",
        "transformers",
        limit=4e-6,
    )


def pairs():
    """NTK-aware, GPT-J's partial rotation, Qwen2-VL's sections."""
    s, d = 65, 32
    q, k, v = qkv(generator("rope_ntk"), 1, 2, s, d)
    emb = x_transformers.RotaryEmbedding(d, base_rescale_factor=4.0)
    freqs, _ = emb.forward_from_seq_len(s)
    o = attend(*(x_transformers.apply_rotary_pos_emb(x.double(), freqs.double()) for x in (q, k)), v)
    pos = torch.arange(s)[None]
    second = formula(q, k, v, powers(d, 1e4 * 4 ** (d / (d - 2))), pos, pos, True)[0]
    write_twice(
        f"rope_ntk_{s}_d{d}",
        "rope, NTK-aware base, interleaved",
        "rope_scaling.attn",
        "rope_ntk",
        dict(B=1, H=2, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=o),
        dict(o=second),
        "x_transformers.RotaryEmbedding(32, base_rescale_factor=4), apply_rotary_pos_emb and SDPA in f64",
        "x-transformers",
        limit=4e-6,
    )

    s, d = 33, 40
    pos = torch.arange(s)[None]
    q, k, v = qkv(generator("rope_partial_interleaved"), 1, 2, s, d)
    angles = create_sinusoidal_positions(s, 16)
    sin, cos = (torch.cat([x, x], -1)[None] for x in (angles[:, :8], angles[:, 8:]))
    turned = [interleaved(x[..., :16], x[..., :16], cos, sin)[0] for x in (q, k)]
    qr, kr = (torch.cat([a, x[..., 16:].double()], -1) for a, x in zip(turned, (q, k)))
    second = formula(q, k, v, powers(16, 1e4), pos, pos, True)[0]
    write_twice(
        f"rope_partial_interleaved_{s}_d{d}",
        "rope, first 16 of 40 features, interleaved",
        "rope_scaling.attn",
        "rope_partial_interleaved",
        dict(B=1, H=2, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=attend(qr, kr, v)),
        dict(o=second),
        "gptj create_sinusoidal_positions(33, 16) (f32), apply_rotary_pos_emb on the first 16 features, SDPA in f64",
        "transformers",
        limit=4e-6,
    )

    s, d, gen = 33, 32, generator("rope_sections")
    q, k, v = qkv(gen, 2, 2, s, d)
    pos = torch.from_numpy(gen.integers(0, 48, (3, 2, s)))
    config = Qwen2VLTextConfig(
        hidden_size=64, num_attention_heads=2, num_key_value_heads=2, rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[4, 6, 6])
    )
    cos, sin = Qwen2VLRotaryEmbedding(config)(torch.zeros(1), pos)
    qr, kr = half(q, k, cos, sin, d)
    axis = torch.tensor([0] * 4 + [1] * 6 + [2] * 6)
    angle = (pos.permute(1, 2, 0)[..., axis].float() * powers(d, 1e6).float()).double()[:, None]
    rotate = lambda x: torch.cat([x[..., :16] * angle.cos() - x[..., 16:] * angle.sin(), x[..., 16:] * angle.cos() + x[..., :16] * angle.sin()], -1)
    second = dense(dots(rotate(q.double()), rotate(k.double())) / math.sqrt(d), v, causal(q, k))[0]
    write_twice(
        f"rope_sections_{s}_d{d}",
        "rope with sections (Qwen2-VL)",
        "rope_scaling.attn",
        "rope_sections",
        dict(B=2, H=2, S=s, D=d),
        dict(q=q, k=k, v=v, pos=pos),
        dict(o=attend(qr, kr, v)),
        dict(o=second),
        "Qwen2VLRotaryEmbedding(mrope_section=[4, 6, 6]) (f32), apply_rotary_pos_emb and SDPA in f64",
        "transformers",
        limit=4e-6,
    )


def own_positions():
    """Rotations that an author writes: pixel frequencies, xPos."""
    s, d = 33, 32
    q, k, v = qkv(generator("pixel_positions"), 1, 2, s, d)
    emb = lucid_rotary.RotaryEmbedding(d, freqs_for="pixel", max_freq=10, interpolate_factor=64.0)
    freqs = emb(emb.get_seq_pos(s)).double()
    apart = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])  # neighbours to halves
    back = torch.argsort(apart)
    o = attend(*(lucid_rotary.apply_rotary_emb(freqs, x.double()[..., back]) for x in (q, k)), v, torch.ones(s, s, dtype=torch.bool))
    inv = math.pi * (1 + torch.arange(16, dtype=torch.float64) * 4 / 15) / 64
    pos = torch.arange(s)[None]
    score = dots(turn(q, inv, pos), turn(k, inv, pos)) / math.sqrt(d)
    write_twice(
        f"pixel_positions_{s}_d{d}",
        "a `position` of the author: linear frequencies",
        "positions.attn",
        "pixel_positions",
        dict(B=1, H=2, S=s, D=d),
        dict(q=q, k=k, v=v),
        dict(o=o),
        dict(o=dense(score, v)[0]),
        "rotary_embedding_torch.RotaryEmbedding(32, freqs_for='pixel', max_freq=10, interpolate_factor=64), features permuted to halves, SDPA in f64",
        "rotary-embedding-torch",
        limit=4e-6,
    )

    for gamma in (512, 32):
        name = f"xpos_{s}_gamma{gamma}"
        q, k, v = qkv(generator(name), 1, 2, s, d)
        emb = local_rotary.SinusoidalEmbeddings(d, scale_base=gamma, use_xpos=True)
        freqs, scale = emb(q)
        qr, kr = local_rotary.apply_rotary_pos_emb(q.double(), k.double(), freqs.double(), scale.double())
        inv, zeta = powers(d, 1e4), (2 * torch.arange(16, dtype=torch.float64) / d + 0.4) / 1.4
        i, j = torch.arange(s)[:, None, None], torch.arange(s)[None, :, None]
        angle, decay = (i - j) * inv, zeta ** ((i - j) / gamma)
        q0, q1, k0, k1 = (
            x.double()[:, :, :, None] if n < 2 else x.double()[:, :, None] for n, x in enumerate((q[..., :16], q[..., 16:], k[..., :16], k[..., 16:]))
        )
        score = (decay * ((q0 * k0 + q1 * k1) * angle.cos() + (q0 * k1 - q1 * k0) * angle.sin())).sum(-1) / math.sqrt(d)
        write_twice(
            name,
            "xPos",
            "positions.attn",
            "xpos",
            dict(B=1, H=2, S=s, D=d),
            dict(q=q, k=k, v=v),
            dict(o=attend(qr, kr, v)),
            dict(o=dense(score, v, causal(q, k))[0]),
            f"local_attention.rotary.SinusoidalEmbeddings(32, scale_base={gamma}, use_xpos=True), apply_rotary_pos_emb and SDPA in f64",
            "local-attention",
            params=dict(gamma=float(gamma)),
            by="own f64 closed form in i - j",
            limit=6e-6,
            note="the package centres positions at S / 2; only differences matter",
        )


def lrpe():
    """LRPE: no package holds it; two formulas."""
    s, d = 33, 16
    for kernel, h, mechanism in [("lrpe_heads", 3, "LRPE, frequencies per head"), ("lrpe_linear", 2, "LRPE, plain weights")]:
        gen = generator(kernel)
        q, k, v = qkv(gen, 2, h, s, d)
        theta = (10000.0 ** (-2 * torch.arange(h * d, dtype=torch.float64) / (h * d))).float().reshape(h, d)
        theta = theta if kernel == "lrpe_heads" else theta[0]
        each = theta.double()[:, None] if theta.ndim == 2 else theta.double()
        pos = torch.arange(s, dtype=torch.float64)[:, None]
        double = lambda x: torch.cat([x.double() * (pos * each).cos(), x.double() * (pos * each).sin()], -1)
        i, j = torch.arange(s)[:, None, None], torch.arange(s)[None, :, None]
        phase = ((i - j) * (theta.double()[:, None, None] if theta.ndim == 2 else theta.double())).cos()
        score = (q.double()[:, :, :, None] * k.double()[:, :, None] * phase).sum(-1) / math.sqrt(d)
        if kernel == "lrpe_heads":
            o = F.scaled_dot_product_attention(double(q), double(k), v.double(), is_causal=True, scale=d**-0.5)
            second = dense(score, v, causal(q, k))[0]
        else:
            o = (double(q) @ double(k).transpose(-1, -2) / math.sqrt(d)).tril() @ v.double()
            second = score.tril() @ v.double()
        write_twice(
            f"{kernel}_{s}_d{d}",
            mechanism,
            "positions.attn",
            kernel,
            dict(B=2, H=h, S=s, D=d),
            dict(q=q, k=k, v=v, theta=theta),
            dict(o=o),
            dict(o=second),
            "rows [x cos, x sin] formed in f64, " + ("SDPA(is_causal=True, scale=1/sqrt(D))" if kernel == "lrpe_heads" else "tril(Q K^T / sqrt(D)) V"),
            "torch",
            by="own f64 sum of q k cos((i - j) theta)",
            note="theta = 10000^(-2 m / (H D)), as in the released TransNormerLLM; sqrt(D) of the row before doubling",
        )


def absolute():
    """Tables added to queries and keys."""
    s, d = 65, 32
    gen = generator("absolute")
    q, k, v = qkv(gen, 1, 2, s, d)
    pe = create_sinusoidal_embeddings(s, d, torch.empty(s, d))
    o = attend(q.double() + pe.double(), k.double() + pe.double(), v)
    pair = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.arange(s, dtype=torch.float64)[:, None] * pair
    own = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
    score = (dots(q, k) + dots(q, own[None, None].expand(1, 2, -1, -1)) + dots(own[None, None].expand(1, 2, -1, -1), k) + own @ own.T) / math.sqrt(d)
    write_twice(
        f"absolute_sinusoidal_{s}_d{d}",
        "sinusoidal absolute positions",
        "positions.attn",
        "absolute",
        dict(B=1, H=2, S=s, D=d),
        dict(q=q, k=k, v=v, pe=pe),
        dict(o=o),
        dict(o=dense(score, v, causal(q, k))[0]),
        "xlm create_sinusoidal_embeddings(65, 32), added to q and k, SDPA in f64",
        "transformers",
        by="own f64 table, four dots",
        limit=4e-6,
    )

    s, gen = 33, generator("absolute_given")
    q, k, v = qkv(gen, 2, 2, s, d)
    emb = torch.nn.Embedding(64, d).weight.detach().copy_(normal(gen, 64, d))
    pos = torch.stack([torch.arange(s), torch.arange(s).sub(7).clamp(min=0) + 20])
    row = F.embedding(pos, emb)[:, None].double()
    o = attend(q.double() + row, k.double() + row, v)
    pick = torch.nn.functional.one_hot(pos, 64).double() @ emb.double()
    score = (
        dots(q, k) + dots(q, pick[:, None].expand(-1, 2, -1, -1)) + dots(pick[:, None].expand(-1, 2, -1, -1), k) + (pick @ pick.transpose(-1, -2))[:, None]
    ) / math.sqrt(d)
    write_twice(
        f"absolute_learned_{s}_d{d}",
        "learned absolute positions, by tensor",
        "positions.attn",
        "absolute_given",
        dict(B=2, H=2, S=s, D=d, L=64),
        dict(q=q, k=k, v=v, pe=emb, pos=pos),
        dict(o=o),
        dict(o=dense(score, v, causal(q, k))[0]),
        "torch.nn.functional.embedding(pos, table), added to q and k, SDPA in f64",
        "torch",
        by="own f64, one-hot table, four dots",
    )


def main():
    """Writes the whole family."""
    warnings.simplefilter("ignore")
    scalings()
    lengths()
    pairs()
    own_positions()
    lrpe()
    absolute()


if __name__ == "__main__":
    main()
