"""attnc's kernels on torch's memory: a plan of the kit bound to tensors.

Comes in: plans, PTX, tensors. Goes out: a `Run`, which can be repeated. What holds: outputs and workspace hold 0xFF before the first
run (NaN of every float type), so that what is never written is seen; bytes before and after each written tensor are looked at.
"""

import torch

import kitfiles
from driver import Bound, Driver

GUARD = 256
GUARD_BYTE, UNWRITTEN = 0xA5, 0xFF
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
TYPES |= {"i8": torch.int8, "i32": torch.int32, "i64": torch.int64, "bit": torch.uint8, "f8e4m3": torch.uint8}


def on_gpu(dtype, shape, data, device):
    """A tensor from bytes."""
    if not data:
        return torch.empty(shape, dtype=TYPES[dtype], device=device)
    return torch.frombuffer(bytearray(data), dtype=TYPES[dtype]).reshape(shape).to(device)


class Guarded:
    """Memory of a tensor that is written, with bytes around it that are not."""

    def __init__(self, entry, device):
        self.entry = entry
        self.bytes = torch.full((entry["bytes"] + 2 * GUARD,), UNWRITTEN, dtype=torch.uint8, device=device)
        self.bytes[:GUARD] = GUARD_BYTE
        self.bytes[GUARD + entry["bytes"] :] = GUARD_BYTE

    def address(self):
        """Of the first element."""
        return self.bytes.data_ptr() + GUARD

    def tensor(self):
        """The elements."""
        return self.bytes[GUARD : GUARD + self.entry["bytes"]].view(TYPES[self.entry["dtype"]]).reshape(self.entry["shape"])

    def intact(self):
        """Nothing was written beside it."""
        around = (self.bytes[:GUARD], self.bytes[GUARD + self.entry["bytes"] :])
        return all(bool((part == GUARD_BYTE).all()) for part in around)


class Ours:
    """Loads code once, binds plans."""

    def __init__(self, device, driver=None, folder=kitfiles.HERE):
        self.device, self.driver, self.folder, self.modules = device, driver or Driver(), folder, {}

    def module(self, ptx):
        """Compiled by the driver, once."""
        if ptx not in self.modules:
            self.modules[ptx] = self.driver.load(kitfiles.data(ptx, self.folder))
        return self.modules[ptx]

    def bind(self, made, given, form=None):
        """A run of one entry of a manifest's `plans` on tensors by name; `form` as in `driver.Bound`."""
        return Run(self, made, given, form)


class Run:
    """A plan with all of its memory."""

    def __init__(self, ours, made, given, form=None):
        self.plan, self.module = made["plan"], ours.module(made["ptx"])
        self.written, self.kept, addresses = {}, [], []
        for entry in self.plan["tensors"]:
            name, role = entry["name"], entry["role"]
            if role in ("output", "updated", "workspace"):
                memory = Guarded(entry, ours.device)
                if role == "updated":
                    memory.tensor().copy_(given[name])
                self.written[name] = memory
                addresses.append(memory.address())
                continue
            if role == "table":
                data = kitfiles.data(made["tables"][name], ours.folder)
                tensor = on_gpu(entry["dtype"], entry["shape"], data, ours.device)
            else:
                tensor = given[name]
                self.expect(entry, tensor)
            if tensor.numel() == 0:
                tensor = torch.zeros(16, dtype=torch.uint8, device=ours.device)
            self.kept.append(tensor)
            addresses.append(tensor.data_ptr())
        self.counter = torch.zeros(4, dtype=torch.int32, device=ours.device)
        self.bound = Bound(self.module, self.plan, addresses, form, self.counter.data_ptr())

    @staticmethod
    def expect(entry, tensor):
        """What is bound has the plan's type, shape and strides."""
        strides = [s for s, n in zip(entry["strides"], entry["shape"]) if n > 1]
        found = [s for s, n in zip(tensor.stride(), tensor.shape) if n > 1]
        if TYPES[entry["dtype"]] != tensor.dtype or entry["shape"] != list(tensor.shape) or strides != found and tensor.numel():
            raise ValueError(f"`{entry['name']}` is {tensor.dtype} {list(tensor.shape)} {found}, the plan has {entry}")

    def run(self):
        """Puts it on the current stream."""
        stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else 0
        self.bound.run(stream)

    def facts(self):
        """The form that runs, why it is not the one with maps, registers and spills."""
        bound = self.bound
        return dict(form=bound.form(), form_reason="; ".join(bound.reasons) or None, entries=self.module.facts(bound.kernels))

    def outputs(self):
        """{name: tensor} of what is not workspace."""
        roles = {entry["name"]: entry["role"] for entry in self.plan["tensors"]}
        return {name: memory.tensor() for name, memory in self.written.items() if roles[name] != "workspace"}

    def overrun(self):
        """Names of tensors beside which something was written, and the counter of tasks if it is not 0 again."""
        beside = [name for name, memory in self.written.items() if not memory.intact()]
        return beside + ["the counter of tasks"] * bool(self.counter.any())
