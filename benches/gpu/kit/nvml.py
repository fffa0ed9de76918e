"""Clocks, power, temperature and driver of a GPU, through NVML. Standard library only.

Comes in: nothing. Goes out: a `Sampler` that looks every 50 ms while something runs, and facts about the host. What holds: no NVML means
no figures, never an error.
"""

import ctypes
import statistics
import threading

SM, MEMORY = 1, 2


class Nvml:
    """The library; `there` is false without it."""

    def __init__(self):
        self.there = False
        try:
            self.lib = ctypes.CDLL("libnvidia-ml.so.1")
            self.handle = ctypes.c_void_p()
            self.there = self.lib.nvmlInit_v2() == 0 and self.lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle)) == 0
        except OSError:
            pass

    def number(self, call, *words, kind=ctypes.c_uint):
        """What a query gives, or none."""
        value = kind()
        ask = getattr(self.lib, call, None) if self.there else None
        return None if ask is None or ask(self.handle, *words, ctypes.byref(value)) else value.value

    def driver(self):
        """Version of the driver."""
        text = ctypes.create_string_buffer(96)
        if not self.there or self.lib.nvmlSystemGetDriverVersion(text, 96):
            return None
        return text.value.decode()

    def look(self):
        """One reading: MHz, MHz, W, degrees, bits of what slows the clocks."""
        power = self.number("nvmlDeviceGetPowerUsage")
        return dict(
            sm_mhz=self.number("nvmlDeviceGetClockInfo", SM),
            memory_mhz=self.number("nvmlDeviceGetClockInfo", MEMORY),
            watts=power and power / 1000,
            degrees=self.number("nvmlDeviceGetTemperature", 0),
            slowed_by=self.number("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong),
        )


class Sampler:
    """Looks while its block runs; `summary` has medians, and the bits of all that slowed the clocks."""

    def __init__(self, nvml, every=0.05):
        self.nvml, self.every, self.seen, self.stop = nvml, every, [], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        """Until told to stop."""
        while not self.stop.wait(self.every):
            self.seen.append(self.nvml.look())

    def __enter__(self):
        if self.nvml.there:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        if self.nvml.there:
            self.thread.join()

    def summary(self):
        """Nothing if nothing was seen."""
        out = {}
        for key in ("sm_mhz", "memory_mhz", "watts", "degrees"):
            found = [s[key] for s in self.seen if s[key] is not None]
            if found:
                out[key] = statistics.median(found)
        bits = 0
        for s in self.seen:
            bits |= s["slowed_by"] or 0
        return dict(out, slowed_by=bits) if out else {}
