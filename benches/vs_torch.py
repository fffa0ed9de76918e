#!/usr/bin/env python3
"""attnc against torch's scaled_dot_product_attention on this CPU: causal prefill and decode; the cost of a window as it grows.

Comes in: nothing but the repository (and --out PATH). It builds attnc in release, makes a virtual env with
a pinned torch in target/venv-bench if none is there (about 5 GB of downloads; --python PATH takes an
interpreter that has torch already), then measures in turn: attnc, torch, attnc, torch. Goes out: a table on
stdout, and JSON in the file that --out names. The figure of a case is the median over the rounds; both sides
do 2 * 2 * S * S * D * H / 2 FLOP for causal attention. Nothing is compared for correctness here: the goldens
in tests/goldens do that.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / "target" / "venv-bench"
TORCH = "2.15.0"
HEADS = 8
CAUSAL = [(2048, 64), (2048, 128)]
DECODE = [(dtype, s) for dtype in ("f32", "bf16") for s in (4096, 16384)]
DECODE_HEADS, DECODE_KV_HEADS, DECODE_DIM = 32, 8, 128
WINDOW, WINDOW_LENGTHS, WINDOW_DIM = 256, [4096, 8192], 64


def arguments():
    """Parses the command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, help="write the figures as JSON to this path")
    p.add_argument("--rounds", type=int, default=7, help="interleaved rounds per case (default 7)")
    p.add_argument("--threads", default="1,2", help="thread counts, separated by commas (default 1,2)")
    p.add_argument("--python", help="an interpreter with torch; default: target/venv-bench, made if missing")
    p.add_argument("--attnc", type=Path, help="an attnc binary; default: cargo build --release")
    p.add_argument("--causal", default="tests/goldens/specs/causal.attn", help="file with a causal kernel of dims B H Sq Sk D")
    p.add_argument("--causal-kernel", default="causal")
    p.add_argument("--decode", default="tests/goldens/specs/gqa.attn", help="file with a kernel of grouped heads, dims B Hq Hkv Sq Sk D")
    p.add_argument("--decode-kernel", default="gqa_chunk")
    p.add_argument("--window", default="tests/goldens/specs/window.attn", help="file with a causal window kernel of parameter W")
    p.add_argument("--window-kernel", default="window_causal")
    p.add_argument("--torch-only", action="store_true", help="leave attnc out")
    p.add_argument("--in-env", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    args.threads = [int(n) for n in args.threads.split(",")]
    if args.rounds < 1 or min(args.threads) < 1:
        p.error("--rounds and --threads must be at least 1")
    return args


def interpreter(args):
    """The Python that has torch, made if need be."""
    if args.python:
        return args.python
    python = VENV / "bin" / "python"
    if not (VENV / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"torch=={TORCH}", "numpy"], check=True)
        (VENV / "ready").write_text(TORCH + "\n")
    return str(python)


def build():
    """Builds attnc in release and returns the path of the binary."""
    subprocess.run(["cargo", "build", "--release", "--bin", "attnc"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "attnc"


def attnc_bench(args, file, kernel, dims, threads, params=(), dtype="f32"):
    """One `attnc bench` run: its JSON object. A failure ends the script with the command and what it said."""
    at = ",".join(f"{k}={v}" for k, v in dims.items())
    command = [str(args.attnc), "bench", str(file), "--kernel", kernel, "--at", at, "--dtype", dtype, "--threads", str(threads), "--json"]
    for param in params:
        command += ["--param", param]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        sys.exit(f"attnc gave no JSON (exit code {done.returncode}): {' '.join(command)}\n{done.stdout}{done.stderr}")


def torch_ms(torch, tensors, calls=3, **options):
    """Median milliseconds of an SDPA call, after one to warm up."""
    sdpa = torch.nn.functional.scaled_dot_product_attention
    sdpa(*tensors, **options)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        sdpa(*tensors, **options)
        times.append((time.perf_counter() - start) * 1e3)
    time.sleep(0.05)  # OpenMP workers spin for a while after a call; attnc shall not share a core with them
    return statistics.median(times)


def causal_case(args, torch, s, d, threads):
    """Interleaved rounds of one causal shape."""
    torch.set_num_threads(threads)
    gen = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, HEADS, s, d, generator=gen) for _ in range(3)]
    flop = 2 * 2 * s * s * d * HEADS / 2
    theirs, ours = [], []
    for _ in range(args.rounds):
        if not args.torch_only:
            ours.append(attnc_bench(args, args.causal, args.causal_kernel, dict(B=1, H=HEADS, Sq=s, Sk=s, D=d), threads))
        theirs.append(torch_ms(torch, tensors, is_causal=True))
    row = dict(kernel="causal", B=1, H=HEADS, S=s, D=d, dtype="f32", threads=threads, flop=flop)
    row["torch_ms"] = statistics.median(theirs)
    row["torch_min_ms"] = min(theirs)
    row["torch_gflops"] = flop / row["torch_ms"] / 1e6
    if ours:
        row["attnc_ms"] = statistics.median(r["median_ms"] for r in ours)
        row["attnc_min_ms"] = min(r["min_ms"] for r in ours)
        row["attnc_gflops"] = flop / row["attnc_ms"] / 1e6
        row["attnc_fraction_of_peak"] = statistics.median(r["fraction_of_peak"] for r in ours)
        row["attnc_compile_ms"] = statistics.median(r["compile_ms"] for r in ours)
        row["torch_over_attnc"] = row["torch_ms"] / row["attnc_ms"]
        row["rounds"] = [dict(attnc=r["median_ms"], torch=t) for r, t in zip(ours, theirs)]
    return row


def decode_case(args, torch, dtype, s, threads):
    """Interleaved rounds of one query over a cache of s keys."""
    torch.set_num_threads(threads)
    gen = torch.Generator().manual_seed(0)
    kind = dict(f32=torch.float32, bf16=torch.bfloat16)[dtype]
    shapes = [(DECODE_HEADS, 1), (DECODE_KV_HEADS, s), (DECODE_KV_HEADS, s)]
    tensors = [torch.randn(1, h, n, DECODE_DIM, generator=gen).to(kind) for h, n in shapes]
    dims = dict(B=1, Hq=DECODE_HEADS, Hkv=DECODE_KV_HEADS, Sq=1, Sk=s, D=DECODE_DIM)
    theirs, ours = [], []
    for _ in range(args.rounds):
        if not args.torch_only:
            ours.append(attnc_bench(args, args.decode, args.decode_kernel, dims, threads, dtype=dtype)["median_ms"])
        theirs.append(torch_ms(torch, tensors, calls=9, enable_gqa=True))
    size = sum(t.numel() * t.element_size() for t in tensors[1:])
    row = dict(kernel="decode", dtype=dtype, threads=threads, bytes=size, torch_ms=statistics.median(theirs), **dims)
    if ours:
        row["attnc_ms"] = statistics.median(ours)
        row["attnc_gb_per_s"] = size / row["attnc_ms"] / 1e6
        row["torch_over_attnc"] = row["torch_ms"] / row["attnc_ms"]
    return row


def read_gb_per_s(args, threads):
    """What this machine reads from memory, as `attnc explain --roofline` measures it."""
    command = [str(args.attnc), "explain", args.decode, "--kernel", args.decode_kernel, "--at", "Sq=1,Sk=4096", "--roofline", "--json"]
    done = subprocess.run([*command, "--threads", str(threads)], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stdout)["roofline"]["gbs"]


def window_case(args, threads):
    """attnc alone: a window of 256 at growing lengths; twice the length should cost twice as much."""
    rounds = []
    for _ in range(args.rounds):
        rounds.append([
            attnc_bench(args, args.window, args.window_kernel, dict(B=1, H=HEADS, Sq=s, Sk=s, D=WINDOW_DIM), threads, [f"W={WINDOW}"])["median_ms"]
            for s in WINDOW_LENGTHS
        ])
    medians = [statistics.median(column) for column in zip(*rounds)]
    return dict(kernel="window", W=WINDOW, H=HEADS, D=WINDOW_DIM, threads=threads, S=WINDOW_LENGTHS, attnc_ms=medians, cost_ratio=medians[1] / medians[0])


def host(torch):
    """What the figures belong to."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return dict(cpu=model, cores=os.cpu_count(), load_before=os.getloadavg()[0], torch=torch.__version__,
                torch_cpu=torch.backends.cpu.get_cpu_capability(), system=platform.platform(), unix_time=int(time.time()))


def measure(args):
    """Runs everything, prints the table, writes the JSON."""
    import torch

    torch.set_grad_enabled(False)
    report = dict(schema=1, host=host(torch), rounds=args.rounds, causal=[], decode=[], window=[])
    print(f"{report['host']['cpu']}, {report['host']['cores']} cores, load {report['host']['load_before']:.2f}, torch {torch.__version__} ({report['host']['torch_cpu']})")
    if report["host"]["load_before"] > 0.3:
        print("warning: something else is running on this machine; the ratio suffers less than the milliseconds")
    print(f"{'causal f32 B=1 H=8':22}{'threads':>8}{'torch ms':>10}{'GFLOP/s':>9}{'attnc ms':>10}{'GFLOP/s':>9}{'of peak':>9}{'torch/attnc':>13}")
    for s, d in CAUSAL:
        for threads in args.threads:
            row = causal_case(args, torch, s, d, threads)
            report["causal"].append(row)
            tail = "" if args.torch_only else f"{row['attnc_ms']:10.2f}{row['attnc_gflops']:9.1f}{row['attnc_fraction_of_peak']:9.2f}{row['torch_over_attnc']:13.2f}"
            print(f"S={s} D={d:<14}{threads:8}{row['torch_ms']:10.2f}{row['torch_gflops']:9.1f}{tail}", flush=True)
    print(f"{'decode Hq=32 Hkv=8 D=128':26}{'threads':>8}{'torch ms':>10}{'attnc ms':>10}{'GB/s':>7}{'of read':>9}{'torch/attnc':>13}")
    for dtype, s in DECODE:
        for threads in args.threads:
            row = decode_case(args, torch, dtype, s, threads)
            report["decode"].append(row)
            tail = ""
            if not args.torch_only:
                row["read_gb_per_s"] = read_gb_per_s(args, threads)
                share = row["attnc_gb_per_s"] / row["read_gb_per_s"]
                tail = f"{row['attnc_ms']:10.2f}{row['attnc_gb_per_s']:7.1f}{share:9.2f}{row['torch_over_attnc']:13.2f}"
            print(f"{dtype} Sk={s:<18}{threads:8}{row['torch_ms']:10.2f}{tail}", flush=True)
    if not args.torch_only:
        for threads in args.threads:
            row = window_case(args, threads)
            report["window"].append(row)
            a, b = row["attnc_ms"]
            print(f"window {WINDOW}, D={WINDOW_DIM}, {threads} thread(s): S={WINDOW_LENGTHS[0]} {a:.2f} ms, S={WINDOW_LENGTHS[1]} {b:.2f} ms, ratio {row['cost_ratio']:.2f} (linear 2, dense 4)", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def main():
    """Prepares outside the environment with torch, then measures inside it."""
    args = arguments()
    if args.in_env:
        measure(args)
        return 0
    python = interpreter(args)
    extra = [] if args.torch_only or args.attnc else ["--attnc", str(build())]
    return subprocess.run([python, __file__, *sys.argv[1:], *extra, "--in-env"]).returncode


if __name__ == "__main__":
    sys.exit(main())
