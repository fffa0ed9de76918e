"""Paired timings: everybody takes turns within one process, on one stream, with a cold second-level cache.

Comes in: calls by name. Goes out: milliseconds of each call. What holds: between two events lies one call; before the first event a
buffer larger than any cache is written, which takes long enough that the host is ahead of the GPU; the order turns round by round.
"""

import statistics

import torch

FLUSH_BYTES = 512 << 20


class Clock:
    """Events and the buffer that empties the cache."""

    def __init__(self):
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def once(self, call):
        """Events around one call, not yet waited for."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush.zero_()
        start.record()
        call()
        end.record()
        return start, end

    def ms(self, events):
        """Waits, then reads."""
        events[1].synchronize()
        return events[0].elapsed_time(events[1])

    def race(self, calls, seconds, least=5, most=50):
        """{name: [ms]}; as many rounds as fit, each with one turn of everybody."""
        names = list(calls)
        trial = {}
        for name in names:
            calls[name]()
            trial[name] = self.ms(self.once(calls[name]))
        turn = sum(trial.values()) + 0.3 * len(names)
        rounds = int(max(least, min(most, seconds * 1e3 / turn)))
        taken = {name: [] for name in names}
        for n in range(rounds):
            order = names[n % len(names) :] + names[: n % len(names)]
            pending = [(name, self.once(calls[name])) for name in order]
            for name, events in pending:
                taken[name].append(self.ms(events))
        return taken


def summary(ms):
    """Median, quartiles, least, number."""
    quartiles = statistics.quantiles(ms, n=4) if len(ms) > 1 else [ms[0]] * 3
    return dict(ms=statistics.median(ms), least=min(ms), q1=quartiles[0], q3=quartiles[2], rounds=len(ms))


def copy_bandwidth():
    """Bytes per second of a copy within the GPU's memory, read and written."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    clock = Clock()
    found = [clock.ms(clock.once(lambda: b.copy_(a))) for _ in range(12)][2:]
    return 2 * a.numel() / (statistics.median(found) * 1e-3)
