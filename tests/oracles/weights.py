"""Forgetting attention (fla), gated output (transformers' Qwen3-Next), dropout (Philox4x32-10 in numpy).

Goes out: fox_*, gated_output_*, dropout_* goldens. The generator is held to the known-answer vectors of Random123
(Salmon, Moraes, Dror, Shaw 2011) and to Triton's, run by its interpreter.
"""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3NextConfig
from transformers.models.qwen3_next import modeling_qwen3_next

from common import WIDE, Fixed, dense, dots, generator, normal, qkv, split_heads, spread, widened, write_twice
from relative import distances

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fla.ops.forgetting_attn import naive as forgetting


def philox(key, counter):
    """Philox4x32-10: key [..., 2] and counter [..., 4] of 32-bit words, as four words."""
    k, c, low = [np.uint64(x) for x in key], [np.asarray(x, dtype=np.uint64) for x in counter], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ k[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return c


def check_philox(rows):
    """Random123's known answers, and Triton's words for `rows` of (key, counter)."""
    known = [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for key, counter, want in known:
        if tuple(int(x) for x in philox(key, counter)) != want:
            raise ValueError(f"Philox gives another answer than Random123 for key {key}")
    text = "\n".join(" ".join(str(int(x)) for x in row) for row in rows)
    done = subprocess.run([sys.executable, str(Path(__file__).parent / "philox_triton.py")], input=text, capture_output=True, text=True, check=True)
    theirs = np.array([[int(x) for x in line.split()] for line in done.stdout.splitlines()], dtype=np.uint64)
    ours = np.stack(philox((rows[:, 0], rows[:, 1]), rows[:, 2:].T), -1)
    if not np.array_equal(ours, theirs):
        raise ValueError("Philox gives other words than Triton")


def kept(b, h, sq, sk, p, seed, offset):
    """1 where a weight stays: word j mod 4 of counter (j div 4, i, b H + h, offset) is at least round(p 2^32)."""
    bi, hi, i, j = np.meshgrid(np.arange(b), np.arange(h), np.arange(sq) + sk - sq, np.arange(sk), indexing="ij")
    key = (seed & 0xFFFFFFFF, seed >> 32)
    words = philox(key, (j // 4, i, bi * h + hi, np.full_like(i, offset)))
    word = np.choose(j % 4, words)
    rows = np.stack([np.full(i.size, key[0]), np.full(i.size, key[1]), (j // 4).ravel(), i.ravel(), (bi * h + hi).ravel(), np.full(i.size, offset)], -1).astype(
        np.uint64
    )
    check_philox(rows)
    return torch.from_numpy(word >= round(p * 2**32)).double()


def fox():
    """fla's forgetting attention."""
    s, d = 65, 16
    for kernel, b, hq, hkv, window, mechanism in [
        ("fox", 1, 4, 2, None, "forgetting attention, grouped heads"),
        ("fox_window", 1, 2, 2, 20, "forgetting attention in a window"),
    ]:
        gen = generator(kernel)
        q, k, v = normal(gen, b, hq, s, d), normal(gen, b, hkv, s, d), normal(gen, b, hkv, s, d)
        logf = torch.nn.functional.logsigmoid(normal(gen, b, hq, s) + 2)
        swap = lambda x: x.transpose(1, 2)
        with widened(forgetting):
            o = swap(forgetting.naive_forgetting_attn(swap(q.double()), swap(k.double()), swap(v.double()), swap(logf.double()), window_size=window))
        upto = torch.ones(s, s, dtype=torch.float64).tril()
        total = logf.double() @ upto.T
        far = distances(s)
        score = dots(q, k) / math.sqrt(d) + total[..., :, None] - total[..., None, :]
        o2, lse2 = dense(score, spread(v, hq), (far <= 0) & (far > -(window or s)))
        outputs, second = dict(o=o), dict(o=o2)
        dims = dict(B=b, Hq=hq, Hkv=hkv, S=s, D=d) if kernel == "fox" else dict(B=b, H=hq, S=s, D=d)
        if window:
            by_cumsum = logf.double().cumsum(-1)
            score = (q.double() @ k.double().mT * d**-0.5 + by_cumsum[..., None] - by_cumsum[..., None, :]).masked_fill((far > 0) | (far <= -window), -math.inf)
            outputs["lse"], second["lse"] = torch.logsumexp(score, -1), lse2
        write_twice(
            f"{kernel}_{s}",
            mechanism,
            "weights.attn",
            kernel,
            dims,
            dict(q=q, k=k, v=v, logf=logf),
            outputs,
            second,
            f"fla.ops.forgetting_attn.naive.naive_forgetting_attn(q, k, v, g, window_size={window})",
            "fla-core",
            params=dict(window=window) if window else None,
            note=WIDE + ("; lse by torch.logsumexp" if window else ""),
        )


def gated():
    """Qwen3-Next's attention: no norms, no rotation, gate kept."""
    b, s, hq, hkv, d = 1, 33, 4, 2, 32
    gen = generator("gated_output")
    q, gate, k, v = normal(gen, b, hq, s, d), normal(gen, b, hq, s, d), normal(gen, b, hkv, s, d), normal(gen, b, hkv, s, d)
    config = Qwen3NextConfig(hidden_size=hq * d, num_attention_heads=hq, num_key_value_heads=hkv, head_dim=d, attn_implementation="eager")
    module = modeling_qwen3_next.Qwen3NextAttention(config, 0).double().eval()
    rows = lambda x: x.double().transpose(1, 2)
    module.q_proj = Fixed(torch.cat([rows(q), rows(gate)], -1).reshape(b, s, -1))
    module.k_proj, module.v_proj = (Fixed(rows(x).reshape(b, s, -1)) for x in (k, v))
    module.o_proj, module.q_norm, module.k_norm = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()
    far = distances(s)
    mask = torch.zeros(1, 1, s, s, dtype=torch.float64).masked_fill(far > 0, -math.inf)
    still = (torch.ones(1, s, d, dtype=torch.float64), torch.zeros(1, s, d, dtype=torch.float64))
    with widened(modeling_qwen3_next):
        o = split_heads(module(torch.zeros(b, s, hq * d, dtype=torch.float64), still, mask)[0], hq)
    o2 = dense(dots(q, k) / math.sqrt(d), spread(v, hq), far <= 0)[0] / (1 + torch.exp(-gate.double()))
    write_twice(
        f"gated_output_{s}",
        "gated output",
        "weights.attn",
        "gated_output",
        dict(B=b, Hq=hq, Hkv=hkv, S=s, D=d),
        dict(q=q, gate=gate, k=k, v=v),
        dict(o=o),
        dict(o=o2),
        "Qwen3NextAttention.double()(x, cos = 1, sin = 0, mask), projections fixed, no q and k norm, eager",
        "transformers",
        note=WIDE,
    )


def dropout():
    """Dropout of softmax weights; lengths differ, the seed needs 64 bits."""
    for name, b, h, sq, sk, p, seed, offset in [("dropout_33", 2, 2, 33, 33, 0.25, 7, 0), ("dropout_17x50", 2, 2, 17, 50, 0.1, 0x0123456789ABCDEF, 3)]:
        d, gen = 16, generator(name)
        q, k, v = normal(gen, b, h, sq, d), normal(gen, b, h, sk, d), normal(gen, b, h, sk, d)
        far = distances(sq, sk, True)
        keep = kept(b, h, sq, sk, p, seed, offset)
        score = (q.double() @ k.double().mT / math.sqrt(d)).masked_fill(far > 0, -math.inf)
        o = (torch.softmax(score, -1) * keep / (1 - p)) @ v.double()
        o2, lse2 = dense(dots(q, k) / math.sqrt(d), v, far <= 0, keep=keep / (1 - p))
        write_twice(
            name,
            "dropout",
            "weights.attn",
            "dropped",
            dict(B=b, H=h, Sq=sq, Sk=sk, D=d),
            dict(q=q, k=k, v=v),
            dict(o=o, lse=torch.logsumexp(score, -1)),
            dict(o=o2, lse=lse2),
            "torch softmax in f64 times a mask of Philox4x32-10 words (numpy)",
            "torch",
            by="own f64 formula; words equal to Random123's known answers and to triton.language.random.philox_impl (interpreter)",
            params=dict(p=p, seed=seed, offset=offset),
            note=f"{int(keep.sum())} of {keep.numel()} pairs stay; i of the counter is the logical position",
        )


def main():
    """Writes the whole family."""
    fox()
    gated()
    dropout()


if __name__ == "__main__":
    main()
