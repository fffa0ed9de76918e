"""How much of the machine others took while somebody was measured. Linux; elsewhere nothing is known. Standard library only."""

import os
import time

DISTURBED = 0.1
"""Cores that others may take on average before a row is marked."""


def busy_ticks():
    """Clock ticks that all cores have worked since the start of the machine; None if the system does not say."""
    try:
        with open("/proc/stat") as f:
            user, nice, system, _, _, irq, soft, *_ = map(int, f.readline().split()[1:])
        return user + nice + system + irq + soft
    except (OSError, ValueError):
        return None


def ticks_of(pid):
    """Clock ticks that a living process has worked."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15]))  # its own and those of its children that have ended
    except (OSError, ValueError, IndexError):
        return 0


class Watch:
    """From its making on: what was used by others than this process, its ended children, and `pids`."""

    def __init__(self, pids):
        self.pids, self.start, self.busy, self.own = pids, time.perf_counter(), busy_ticks(), self.used(pids)

    @staticmethod
    def used(pids):
        """Clock ticks of us and ours."""
        return ticks_of(os.getpid()) + sum(map(ticks_of, pids))

    def cores(self):
        """Cores that others used on average; None if unknown."""
        if self.busy is None:
            return None
        others = busy_ticks() - self.busy - (self.used(self.pids) - self.own)
        return max(others, 0) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - self.start)
