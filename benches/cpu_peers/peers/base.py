"""The interface behind which every other implementation stands."""

from dataclasses import dataclass
from typing import Any, Callable, Optional


class No(str):
    """Why an implementation does not compute a case."""


NATIVE = "native"
"""The implementation has this mechanism."""
WORKAROUND = "workaround"
"""What its users write because it does not have it: a mask or bias of N x N elements, a loop of calls."""


@dataclass
class Call:
    """A case made ready: `run()` computes, `fetch(result)` gives f32 arrays (o [Hq, Sq, D], lse [Hq, Sq] or None)."""

    run: Callable[[], Any]
    fetch: Callable[[Any], tuple]
    reset: Optional[Callable[[], None]] = None
    """Called before each turn, not timed: puts state back."""
    most: int = 10_000
    """Calls in a turn, at most."""


class Peer:
    """One implementation, or one way of using it."""

    name = ""
    """What tables call it."""
    by_token = False
    """Whether it takes keys whose heads lie side by side (`Case.by_token`) where they lie."""

    def version(self):
        """The version of the library, as text."""
        raise NotImplementedError

    def can(self, case):
        """NATIVE, WORKAROUND, or `No(reason)`."""
        raise NotImplementedError

    def prepare(self, case, tensors, threads):
        """A `Call` of the case on `tensors` (see tensors.make: numpy, [heads, rows, features]) with so many threads."""
        raise NotImplementedError
