"""The CUDA driver's library through ctypes: PTX to a module, its entries, launches. Standard library only.

Comes in: PTX text, plans of the kit. Goes out: functions and launches. What holds: every error of the driver is a `DriverError` with its
name; what its compiler said about the PTX is kept. The context is the one that torch has made current. Deliberately not done: memory.
"""

import ctypes

LOG_BYTES = 64 << 10
INFO_LOG, INFO_LOG_BYTES, ERROR_LOG, ERROR_LOG_BYTES, LOG_VERBOSE = 3, 4, 5, 6, 12
"""CUjit_option"""
MAX_DYNAMIC_SHARED, LOCAL_BYTES, REGISTERS = 8, 3, 4
"""CUfunction_attribute"""


class DriverError(Exception):
    """What the driver refuses, or a launch that failed."""


class Driver:
    """`lib` is the library, or something that behaves as it does."""

    def __init__(self, lib=None):
        self.lib = lib or ctypes.CDLL("libcuda.so.1")

    def do(self, what, result, detail=""):
        """An error unless the result is 0."""
        if result:
            name = ctypes.c_char_p()
            self.lib.cuGetErrorName(result, ctypes.byref(name))
            text = (name.value or b"error %d" % result).decode()
            raise DriverError(f"{what}: {text}{': ' + detail if detail else ''}")

    def load(self, ptx):
        """Has the driver compile PTX (bytes)."""
        info, errors = ctypes.create_string_buffer(LOG_BYTES), ctypes.create_string_buffer(LOG_BYTES)
        options = (ctypes.c_int * 5)(INFO_LOG, INFO_LOG_BYTES, ERROR_LOG, ERROR_LOG_BYTES, LOG_VERBOSE)
        sizes = [ctypes.c_void_p(LOG_BYTES), ctypes.c_void_p(1)]
        pointers = [ctypes.cast(b, ctypes.c_void_p) for b in (info, errors)]
        values = (ctypes.c_void_p * 5)(pointers[0], sizes[0], pointers[1], sizes[0], sizes[1])
        module = ctypes.c_void_p()
        result = self.lib.cuModuleLoadDataEx(ctypes.byref(module), ctypes.c_char_p(ptx + b"\0"), 5, options, values)
        said = "\n".join(b.value.decode(errors="replace").strip() for b in (errors, info)).strip()
        self.do("the driver refuses the PTX", result, said)
        return Module(self, module, said)

    def launch(self, function, blocks, threads, shared, stream, argv):
        """Puts a launch on a stream."""
        args = (function, blocks, 1, 1, threads, 1, 1, shared, ctypes.c_void_p(stream), argv, None)
        result = self.lib.cuLaunchKernel(*args)
        if result:
            self.do("a launch", result)


class Module:
    """Loaded code; `log` is what the driver's compiler said."""

    def __init__(self, driver, handle, log):
        self.driver, self.handle, self.log, self.entries = driver, handle, log, {}

    def entry(self, name, shared):
        """A function with leave for its dynamic shared memory."""
        if name not in self.entries:
            function = ctypes.c_void_p()
            result = self.driver.lib.cuModuleGetFunction(ctypes.byref(function), self.handle, name.encode())
            self.driver.do(f"entry `{name}`", result)
            self.entries[name] = function
        function = self.entries[name]
        if shared:
            result = self.driver.lib.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED, shared)
            self.driver.do(f"{shared} bytes of shared memory for `{name}`", result)
        return function

    def attribute(self, name, which):
        """An attribute of an entry, or none where the driver does not say."""
        value = ctypes.c_int()
        failed = self.driver.lib.cuFuncGetAttribute(ctypes.byref(value), which, self.entries[name])
        return None if failed else value.value

    def facts(self):
        """Registers and bytes in local memory (spills) of each entry."""
        return {n: dict(registers=self.attribute(n, REGISTERS), local_bytes=self.attribute(n, LOCAL_BYTES)) for n in self.entries}


class Bound:
    """The launches of a plan on tensors at known addresses: to be run any number of times."""

    def __init__(self, module, plan, addresses):
        """`addresses` has one for each tensor of the plan, in its order."""
        self.driver, self.launches, self.keep = module.driver, [], []
        for one in plan["launches"]:
            if one["blocks"] == 0:
                continue
            function = module.entry(one["kernel"], one["shared_bytes"])
            words = [addresses[w[0]] if isinstance(w, list) else w for w in one["words"]]
            cells = (ctypes.c_uint64 * max(len(words), 1))(*(w % (1 << 64) for w in words))
            first = ctypes.addressof(cells)
            argv = (ctypes.c_void_p * max(len(words), 1))(*(first + 8 * n for n in range(len(words))))
            self.keep.append(cells)
            self.launches.append((function, one["blocks"], one["threads"], one["shared_bytes"], argv))

    def run(self, stream):
        """Puts all launches on a stream; waits for nothing."""
        for function, blocks, threads, shared, argv in self.launches:
            self.driver.launch(function, blocks, threads, shared, stream, argv)
