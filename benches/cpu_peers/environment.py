"""The virtual environment with all other implementations, at pinned versions. Standard library only.

Groups are installed one by one: one that fails is recorded with its reason and the others go on. The record, pins.json in the
environment, is compared with the pins at every start; other pins make the environment anew.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "target" / "venv-peers"
GGML_SDIST = "llama-cpp-python==0.3.36"
"""Its source distribution holds ggml, of which the CPU backend alone is built."""
PINS = {
    "base": ["numpy==2.4.6", "matplotlib==3.11.2"],
    "torch": ["torch==2.15.0", "numpy==2.4.6"],
    "onnxruntime": ["onnxruntime==1.32.0", "onnx==1.23.2", "numpy==2.4.6"],
    "openvino": ["openvino==2026.4.1", "numpy==2.4.6"],
    "jax": ["jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6"],
    "ggml": ["cmake==4.4.5", "ninja==1.13.2"],
}
FLAGS = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON", "-DGGML_CCACHE=OFF", "-DGGML_LLAMAFILE=ON"]


def python():
    """The interpreter of the environment."""
    return VENV / "bin" / "python"


def ggml():
    """Where the libraries of ggml lie."""
    return VENV / "ggml"


def run(command, log):
    """Runs a command, all that it prints going to the file `log`; raises RuntimeError with the last line otherwise."""
    with open(log, "ab") as out:
        done = subprocess.run([str(x) for x in command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = [x for x in Path(log).read_text(errors="replace").splitlines() if x.strip()]
        raise RuntimeError(f"{Path(command[0]).name} failed ({lines[-1][:200] if lines else 'no output'}); see {log}")


def build_ggml(log):
    """Builds libggml-base and libggml-cpu for this machine, about two minutes on two cores."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run([python(), "-m", "pip", "download", "--no-deps", "--no-binary", GGML_SDIST.split("==")[0], "-d", work, GGML_SDIST], log)
        with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
            archive.extractall(work, filter="data")
        source = next(work.glob("*/vendor/llama.cpp/ggml"))
        lines = ["cmake_minimum_required(VERSION 3.14)", "project(ggml_only C CXX)", f"add_subdirectory({source} ggml)"]
        (work / "CMakeLists.txt").write_text("\n".join(lines) + "\n")
        tools = VENV / "bin"
        os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
        run([tools / "cmake", "-S", work, "-B", work / "build", "-G", "Ninja", *FLAGS], log)
        run([tools / "cmake", "--build", work / "build", "--target", "ggml"], log)
        shutil.rmtree(ggml(), ignore_errors=True)
        ggml().mkdir()
        for lib in (work / "build").rglob("libggml*"):
            if lib.is_file():
                shutil.copy(lib, ggml() / lib.name)


def install(group, log):
    """Installs one group; None, or why it failed."""
    try:
        run([python(), "-m", "pip", "install", "--progress-bar", "off", *PINS[group]], log)
        if group == "ggml":
            build_ggml(log)
    except (RuntimeError, StopIteration, OSError) as error:
        return str(error)
    return None


def ready(say=print):
    """Makes the environment if the pins are others than it holds; {group: None, or why it is missing}."""
    marker, wanted = VENV / "pins.json", dict(PINS, ggml_sdist=[GGML_SDIST])
    record = json.loads(marker.read_text()) if marker.exists() else {}
    if record.get("pins") != wanted:
        say(f"making {VENV} (about 6 GB, some minutes)")
        VENV.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV.resolve()], check=True)
        record = dict(pins=wanted, groups={})
    for n, group in enumerate(PINS):
        if record["groups"].get(group, "not tried") is None:
            continue
        say(f"[{n + 1}/{len(PINS)}] installing {', '.join(PINS[group])}" + (f", building ggml of {GGML_SDIST}" if group == "ggml" else ""))
        record["groups"][group] = install(group, VENV / f"install-{group}.log")
        if record["groups"][group]:
            say(f"    failed: {record['groups'][group]}")
        marker.write_text(json.dumps(record, indent=1) + "\n")
    return record["groups"]
