"""Builds the kit: compiles, draws inputs, has attnc compute the references, writes a folder. Standard library only.

Comes in: attnc with its LLVM worker. Goes out: a folder that a host needs nothing else of: `run.py` and what it imports, `kit.json`
(checks, shapes, plans), PTX, tensors and tables. What holds: every kernel of the gallery stands in `kit.json`, among the checks or, with
the reason, among `left_out`. References are what attnc's f32 kernel on this CPU computes from the same (rounded) inputs, after attnc
compared it with its f64 evaluation; the errors of that comparison stand beside them. Kernels that update a cache round what they store
and go on with it: their references are those of the same type.

    kit.json  {schema, attnc, commit, date, targets, left_out: {id: reason},
               checks: [{id, kernel, dtype, quick, dims, params, tensors: file, reference: {output: {atol, rtol, rel_l2, f64: errors}},
                         plans: {target: {ptx: file, plan, tables: {name: file}}}}],
               shapes: [{fields of shapes.Shape, plans}]}
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gallery
import package
import plan
import shapes
import tensors
from attnc import Attnc, Failed

HERE = Path(__file__).resolve().parent
SCHEMA = 1
TARGETS = ["sm_80", "sm_90a"]
SEED = 1


class Builder:
    """What one build needs."""

    def __init__(self, attnc, out, targets, say, simulate=False):
        self.attnc, self.out, self.targets, self.say, self.simulate = attnc, out, targets, say, simulate
        self.work = Path(tempfile.mkdtemp(prefix="attnc-kit-"))
        self.left_out = {}

    def keep(self, name, data):
        """Writes a compressed file; its name in the kit."""
        path = self.out / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, 6, mtime=0))
        return f"{name}.gz"

    def plans(self, id, file, kernel, dims, params, dtype, optional=()):
        """The artifact, and for each target PTX, plan and tables."""
        out, artifact = {}, None
        for target in self.targets:
            path = self.work / f"{id}.{target}.attnk"
            self.attnc.build(path, file, kernel, dims, params, dtype, target, optional)
            artifact = package.read(path)
            path.unlink()
            made = {name: self.keep(f"tables/{id}.{target}.{name}", data) for name, data in plan.tables(artifact, dims).items()}
            ptx = self.keep(f"ptx/{self.shared(artifact)}.{target}.ptx", artifact.code)
            out[target] = dict(ptx=ptx, plan=plan.plan(artifact, dims), tables=made)
        return artifact, out

    @staticmethod
    def shared(artifact):
        """Shapes that differ in lengths only share their code: its hash names it."""
        return f"{artifact.name}-{hashlib.sha256(artifact.code).hexdigest()[:12]}"

    def check(self, c):
        """One correctness check. Errors: `Failed`, `plan.Refused`, `package.Malformed`."""
        file, kernel, params = gallery.EXAMPLES / c["file"], c["kernel"], c["params"]
        known = self.attnc.run(file, kernel, {}, params, "--random")["dims"]
        dims = known | {name: size for name, size in c["sizes"].items() if name in known}
        grown = [name for name in known if name.endswith("_pages") or name == "n_pages"]
        dims = {name: size for name, size in dims.items() if name not in grown}
        asked = self.attnc.run(file, kernel, dims, params, "--random", "--dtype", c["dtype"])
        dims, inputs = asked["dims"], asked["inputs"]
        names = [i["name"] for i in inputs]
        artifact, plans = self.plans(c["id"], file, kernel, dims, params, c["dtype"], names)
        self.same_names(artifact, names, asked)
        maker = tensors.Maker(artifact, dims, c["recipes"], SEED)
        made = [(i["name"], i["dtype"], i["shape"], maker.tensor(i["name"], i["dtype"], i["shape"])) for i in inputs]
        kept, gates = self.reference(c, file, made, artifact)
        if self.simulate:
            self.simulated(c, file, made, plans)
        data = self.keep(f"tensors/{c['id']}.safetensors", kept)
        fields = {name: c[name] for name in ("id", "kernel", "dtype", "quick", "params")}
        return dict(fields, file=c["file"], dims=dims, tensors=data, reference=gates, plans=plans)

    @staticmethod
    def same_names(artifact, names, asked):
        """The package binds what the command line binds."""
        bound = {t.name for t in artifact.tensors if t.role in ("input", "updated")}
        if bound != set(names):
            raise plan.Refused(f"the package binds {sorted(bound)}, attnc run {sorted(names)}")
        written = {t.name for t in artifact.tensors if t.role in ("output", "updated")}
        if written != {o["name"] for o in asked["outputs"]}:
            raise plan.Refused(f"the package writes {sorted(written)}, attnc run {asked['outputs']}")

    def reference(self, c, file, made, artifact):
        """A file of inputs and references, and the gate of each output."""
        at = self.work / c["id"]
        at.mkdir()
        try:
            narrow, wide, out = at / "in.safetensors", at / "wide.safetensors", at / "out.safetensors"
            tensors.write(narrow, made)
            outputs = [t.name for t in artifact.tensors if t.role in ("output", "updated")]
            save = [w for name in outputs for w in ("-o", f"{name}={out}:{name}")]
            run = lambda dtype, bound, *more: self.attnc.run(
                file, c["kernel"], {}, c["params"], "--dtype", dtype, "--bind", bound, "--verify", *more
            )
            same = c["dtype"] == "f32" or any(t.role == "updated" for t in artifact.tensors)
            gated = run(c["dtype"], narrow, *(save if same else []))
            exact = gated
            if not same:
                floats = {t.name for t in artifact.tensors if t.dtype == c["dtype"]}
                tensors.write(wide, [self.widened(t, floats, c) for t in made])
                exact = run("f32", wide, *save)
            found = tensors.read(out.read_bytes())
            kept = made + [(f"ref.{name}", *found[name]) for name in outputs]
            tensors.write(narrow, kept)
            return narrow.read_bytes(), self.gates(gated, exact)
        finally:
            shutil.rmtree(at, ignore_errors=True)

    def simulated(self, c, file, made, plans):
        """attnc's simulator computes the same from the same tensors, and launches what the plan says. Errors: it does not."""
        bound = self.work / f"{c['id']}.sim.safetensors"
        tensors.write(bound, made)
        for target in self.targets:
            more = ("--dtype", c["dtype"], "--bind", bound, "--verify", "--target", f"sim:{target}")
            done = self.attnc.run(file, c["kernel"], {}, c["params"], *more)["launches"]
            found = [(one["kernel"], one["tasks"], one["threads"]) for one in done]
            launches = plans[target]["plan"]["launches"]
            forms = [(one["tasks"], plan.taken(one)) for one in launches if one["tasks"]]
            if found != [(form["kernel"], tasks, form["threads"]) for tasks, form in forms]:
                raise plan.Refused(f"the simulator launched {found} for {target}, the plan has {launches}")
        bound.unlink()

    @staticmethod
    def widened(tensor, floats, c):
        """In f32 where the kernel's `float` is meant: not what has a narrow type of its own."""
        name, dtype, shape, data = tensor
        if dtype != c["dtype"] or name not in floats or c["recipes"].get(name) == "scale":
            return tensor
        return name, "f32", shape, tensors.widened(dtype, data)

    @staticmethod
    def gates(gated, exact):
        """What is allowed for each output, and how far the reference is from the f64 evaluation."""
        error = {check["output"]: [check["max_abs"], check["rel_l2"]] for check in exact["checks"]}
        out = {}
        for check in gated["checks"]:
            fields = dict(atol=check["atol"], rtol=check["rtol"], rel_l2=check["rel_l2_gate"])
            out[check["output"]] = dict(fields, from_f64=error[check["output"]])
        return out

    def shape(self, s):
        """One row of the benchmarks."""
        spec = HERE / "specs" / "bench.attn"
        _, plans = self.plans(s.id, spec, s.kind, s.dims, s.params, s.dtype)
        return dict(s.as_dict(), plans=plans)

    def attempted(self, id, make, what):
        """What `make` gives, or nothing and a reason."""
        try:
            return make(what)
        except (Failed, plan.Refused, package.Malformed, OSError, KeyError, ValueError) as err:
            self.left_out[id] = f"{type(err).__name__}: {err}"
            self.say(f"left out: {id}: {err}")
            return None

    def all(self, make, items, id_of, jobs):
        """Every item that could be made, in order."""
        with ThreadPoolExecutor(jobs) as pool:
            made = pool.map(lambda item: self.attempted(id_of(item), make, item), items)
            return [m for m in made if m is not None]


def commit():
    """Of this repository, or none."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or None


def build(args, say):
    """The whole kit."""
    if args.out.exists() and any(args.out.iterdir()) and not (args.out / "kit.json").exists():
        raise SystemExit(f"{args.out} holds other things; name an empty folder")
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    builder = Builder(Attnc(args.attnc, args.worker), args.out, args.targets, say, args.simulate)
    wanted = lambda id: not args.only or any(word in id for word in args.only.split(","))
    try:
        todo = [c for c in gallery.checks() if wanted(c["id"])]
        say(f"{len(todo)} checks")
        checks = builder.all(builder.check, todo, lambda c: c["id"], args.jobs)
        rows = [s for s in shapes.shapes() if wanted(s.id)]
        say(f"{len(rows)} shapes")
        measured = builder.all(builder.shape, rows, lambda s: s.id, args.jobs)
    finally:
        shutil.rmtree(builder.work, ignore_errors=True)
    manifest = dict(schema=SCHEMA, attnc=builder.attnc.version(), commit=commit(), date=time.strftime("%Y-%m-%d"))
    manifest |= dict(targets=args.targets, left_out=builder.left_out, checks=checks, shapes=measured)
    (args.out / "kit.json").write_text(json.dumps(manifest))
    for path in sorted((HERE / "kit").glob("*.py")):
        shutil.copy(path, args.out / path.name)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    say(f"{args.out}: {len(checks)} checks, {len(measured)} shapes, {len(builder.left_out)} left out, {size / 2**20:.1f} MiB")
    return manifest
