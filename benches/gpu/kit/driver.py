"""The CUDA driver's library through ctypes: PTX to a module, its entries, launches. Standard library only.

Comes in: PTX text, plans of the kit. Goes out: functions and launches. What holds: every error of the driver is a `DriverError` with its
name; what its compiler said about the PTX is kept. The context is the one that torch has made current. Tensor maps are encoded once, when
a plan is bound. Deliberately not done: memory.
"""

import ctypes

import maps

LOG_BYTES = 64 << 10
INFO_LOG, INFO_LOG_BYTES, ERROR_LOG, ERROR_LOG_BYTES, LOG_VERBOSE = 3, 4, 5, 6, 12
"""CUjit_option"""
MAX_DYNAMIC_SHARED, LOCAL_BYTES, REGISTERS = 8, 3, 4
"""CUfunction_attribute"""
MULTIPROCESSORS = 16
"""CUdevice_attribute"""
MAP_TYPES = {"f16": 6, "bf16": 9}
"""CUtensorMapDataType"""
NO_INTERLEAVE, SWIZZLE_128B, PROMOTE_256B, NO_FILL = 0, 3, 3, 0
"""CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill"""
MAP_BYTES, MAP_ALIGN = 128, 64
MOST_PARAMS, MOST_MAPS = 512, 16


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

    def encode(self, place, map, address):
        """Writes the driver's form of a tensor map of a plan to a place of 128 bytes, aligned to 64."""
        rank = len(map["dims"])
        dims, strides = (ctypes.c_uint64 * rank)(*map["dims"]), (ctypes.c_uint64 * (rank - 1))(*map["strides"])
        box, steps = (ctypes.c_uint32 * rank)(*map["box"]), (ctypes.c_uint32 * rank)(*[1] * rank)
        try:
            call = self.lib.cuTensorMapEncodeTiled
        except AttributeError as err:
            raise DriverError("this driver knows no tensor maps") from err
        head = (ctypes.c_void_p(place), MAP_TYPES[map["dtype"]], rank, ctypes.c_void_p(address))
        how = (NO_INTERLEAVE, SWIZZLE_128B, PROMOTE_256B, NO_FILL)
        self.do("the driver refuses a tensor map", call(*head, dims, strides, box, steps, *how), str(map))

    def launch(self, function, blocks, threads, shared, stream, argv):
        """Puts a launch on a stream."""
        args = (function, blocks, 1, 1, threads, 1, 1, shared, ctypes.c_void_p(stream), argv, None)
        result = self.lib.cuLaunchKernel(*args)
        if result:
            self.do("a launch", result)


    def multiprocessors(self):
        """Of the current context's device."""
        device, count = ctypes.c_int(), ctypes.c_int()
        self.do("the current device", self.lib.cuCtxGetDevice(ctypes.byref(device)))
        self.do("its multiprocessors", self.lib.cuDeviceGetAttribute(ctypes.byref(count), MULTIPROCESSORS, device))
        return count.value


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

    def at_once(self, function, threads, shared):
        """Blocks of an entry that the device holds at once."""
        blocks = ctypes.c_int()
        lib = self.driver.lib
        result = lib.cuOccupancyMaxActiveBlocksPerMultiprocessor(ctypes.byref(blocks), function, threads, ctypes.c_size_t(shared))
        self.driver.do("how many blocks fit", result)
        return max(blocks.value, 1) * self.driver.multiprocessors()

    def attribute(self, name, which):
        """An attribute of an entry, or none where the driver does not say."""
        value = ctypes.c_int()
        failed = self.driver.lib.cuFuncGetAttribute(ctypes.byref(value), which, self.entries[name])
        return None if failed else value.value

    def facts(self, names=None):
        """Registers and bytes in local memory (spills) of each entry, or of some."""
        names = self.entries if names is None else names
        return {n: dict(registers=self.attribute(n, REGISTERS), local_bytes=self.attribute(n, LOCAL_BYTES)) for n in names}


class Bound:
    """The launches of a plan on tensors at known addresses: to be run any number of times."""

    def __init__(self, module, plan, addresses, form=None, counter=0):
        """`addresses` has one for each tensor of the plan, in its order. `form` is `general` or `mapped`: what is asked for. Without it,
        and where a launch cannot run with maps, each launch has the form that attnc's runtime would take. `counter` is the address of
        32 bits of 0 for persistent kernels."""
        self.driver, self.launches, self.keep, self.counter = module.driver, [], [], counter
        self.kernels, self.forms, self.reasons = [], {}, []
        for one in plan["launches"]:
            if one["tasks"] == 0:
                continue
            chosen, reason = maps.taken(one, addresses, form)
            body = one["mapped"] if chosen == "mapped" else one
            if maps.two_forms(one):
                self.forms[one["name"]] = chosen
            if reason:
                self.reasons.append(f"{one['name']}: {reason}")
            function = module.entry(body["kernel"], body["shared_bytes"])
            self.kernels.append(body["kernel"])
            argv = self.parameters(body, addresses)
            threads, shared, blocks = body["threads"], body["shared_bytes"], one["tasks"]
            if body["persistent"]:
                blocks = min(blocks, module.at_once(function, threads, shared))
            self.launches.append((function, blocks, threads, shared, argv))

    def parameters(self, body, addresses):
        """Pointers to the words, then to the maps, which stay where they are as long as this lives."""
        address = lambda of: self.counter if of == "counter" else addresses[of]
        words = [address(w[0]) if isinstance(w, list) else w for w in body["words"]]
        made = body.get("maps", [])
        if len(words) + len(made) > MOST_PARAMS or len(made) > MOST_MAPS:
            raise DriverError(f"`{body['kernel']}` takes {len(words)} words and {len(made)} tensor maps")
        cells = (ctypes.c_uint64 * max(len(words), 1))(*(w % (1 << 64) for w in words))
        room = ctypes.create_string_buffer(MAP_BYTES * len(made) + MAP_ALIGN)
        self.keep += [cells, room]
        first, first_map = ctypes.addressof(cells), -(-ctypes.addressof(room) // MAP_ALIGN) * MAP_ALIGN
        pointers = [first + 8 * n for n in range(len(words))]
        for n, one in enumerate(made):
            pointers.append(first_map + MAP_BYTES * n)
            self.driver.encode(pointers[-1], one, addresses[one["tensor"]])
        return (ctypes.c_void_p * max(len(pointers), 1))(*pointers)

    def form(self):
        """`mapped` where every launch that can run with maps at the plan's sizes does, `mixed` where only some do, or `general`."""
        found = set(self.forms.values()) or {"general"}
        return found.pop() if len(found) == 1 else "mixed"

    def run(self, stream):
        """Puts all launches on a stream; waits for nothing."""
        for function, blocks, threads, shared, argv in self.launches:
            self.driver.launch(function, blocks, threads, shared, stream, argv)
