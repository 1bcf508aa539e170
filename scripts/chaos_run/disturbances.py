"""The disturbances of a run and their times: nothing else excuses a repeated execution.

All times are seconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

FLUSH_SECONDS: Final = 0.5
"""An event this shortly before a kill or a cut may be lost: an ack is still in a buffer, or in a server that writes the
state of its consumers about ten times a second."""

RECONNECT_SECONDS: Final = 3.0
"""All processes are connected again this long after an outage."""

_LAPSED: Final = "its lease lapsed while its worker was stopped"


@dataclass(frozen=True)
class Span:
    """One disturbance."""

    begun: float
    ended: float

    def meets(self, begun: float, ended: float) -> bool:
        """Whether the two overlap."""
        return self.begun <= ended and begun <= self.ended


@dataclass
class Disturbances:
    """All disturbances, by the process that they hit."""

    ack_wait: float
    worker_kills: dict[int, Span] = field(default_factory=dict)
    """By pid: from just before the signal until the process had ended."""
    server_outages: list[Span] = field(default_factory=list)
    """From just before the kill until the server listened again."""
    stops: dict[int, list[Span]] = field(default_factory=dict)
    """By pid: from SIGSTOP to SIGCONT."""
    cuts: dict[int, list[Span]] = field(default_factory=dict)
    """By pid: without a connection."""

    def kill_within(self, pid: int, begun: float, ended: float) -> bool:
        """Whether a worker was killed between two times."""
        kill = self.worker_kills.get(pid)
        return kill is not None and kill.meets(begun, ended)

    def stop_within(self, pid: int, begun: float, ended: float) -> bool:
        """Whether a worker was stopped between two times."""
        return any(stop.meets(begun, ended) for stop in self.stops.get(pid, ()))

    def cause_of_no_end(self, pid: int, begun: float) -> str | None:
        """The reason why an execution never ended; None if there is none."""
        if self.kill_within(pid, begun, math.inf):
            return "killed while it executed"
        if self.stop_within(pid, begun, math.inf):
            return _LAPSED
        return None

    def cause_of_forgotten_end(self, pid: int, begun: float, ended: float) -> str | None:
        """The reason why the server does not know the end of an execution; None if there is none."""
        if self.kill_within(pid, ended, ended + FLUSH_SECONDS):
            return "ended, and its worker was killed before the ack was out"
        for outage in self.server_outages:
            if outage.meets(ended - RECONNECT_SECONDS, ended + FLUSH_SECONDS):
                return "ended, and the server was killed before the ack was kept"
            if outage.begun - FLUSH_SECONDS <= begun <= outage.ended + RECONNECT_SECONDS:
                return "delivered, and the server was killed before the delivery was kept"
        return self._cause_of_lapse(pid, begun, ended)

    def cause_of_second_firing(self, due: float) -> str | None:
        """The reason why one schedule fired twice: the server stores the task, then removes the schedule."""
        if any(outage.meets(due - RECONNECT_SECONDS, due + FLUSH_SECONDS) for outage in self.server_outages):
            return "its schedule fired, and the server was killed before that was kept"
        return None

    def _cause_of_lapse(self, pid: int, begun: float, ended: float) -> str | None:
        if self.stop_within(pid, begun, ended + FLUSH_SECONDS):
            return _LAPSED
        if any(cut.meets(begun - RECONNECT_SECONDS, ended + FLUSH_SECONDS) for cut in self.cuts.get(pid, ())):
            return "its worker was cut off from the server"
        if any(outage.meets(begun - self.ack_wait, ended + FLUSH_SECONDS) for outage in self.server_outages):
            return "its lease lapsed while the server was away"
        return None
