"""What was done to the mesh, and when: the only excuses for a repeat. All times are CLOCK_BOOTTIME, in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

FLUSH: Final = 0.5
"""What lies within this before a kill or a cut may be forgotten: an ack still in a buffer, or in a server that writes
what its consumers know about ten times a second."""

RECONNECT: Final = 3.0
"""Within this after an outage everybody is connected again."""


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
    """All of them, by whom they hit."""

    ack_wait: float
    worker_kills: dict[int, Span] = field(default_factory=dict)
    """By pid: from just before the signal until the process was gone."""
    server_outages: list[Span] = field(default_factory=list)
    """From just before the kill until it listened again."""
    stops: dict[int, list[Span]] = field(default_factory=dict)
    """By pid: SIGSTOP to SIGCONT."""
    cuts: dict[int, list[Span]] = field(default_factory=dict)
    """By pid: without a connection."""

    def kill_within(self, pid: int, begun: float, ended: float) -> bool:
        """Whether a worker was killed in that time."""
        kill = self.worker_kills.get(pid)
        return kill is not None and kill.meets(begun, ended)

    def cause_of_no_end(self, pid: int, begun: float) -> str | None:
        """Why an execution never ended."""
        if self.kill_within(pid, begun, math.inf):
            return "killed while it executed"
        return None

    def cause_of_forgotten_end(self, pid: int, begun: float, ended: float) -> str | None:
        """Why what came of an execution is not known to the server."""
        if self.kill_within(pid, ended, ended + FLUSH):
            return "ended, and its worker was killed before the ack was out"
        for outage in self.server_outages:
            if outage.meets(ended - RECONNECT, ended + FLUSH):
                return "ended, and the server was killed before the ack was kept"
            if outage.begun - FLUSH <= begun <= outage.ended + RECONNECT:
                return "delivered, and the server was killed before the delivery was kept"
        return self._cause_of_lapse(pid, begun, ended)

    def cause_of_second_firing(self, due: float) -> str | None:
        """Why one schedule stands twice in the queue: firing stores the task and removes the schedule, one by one."""
        if any(outage.meets(due - RECONNECT, due + FLUSH) for outage in self.server_outages):
            return "its schedule fired, and the server was killed before that was kept"
        return None

    def _cause_of_lapse(self, pid: int, begun: float, ended: float) -> str | None:
        if any(stop.meets(begun, ended + FLUSH) for stop in self.stops.get(pid, ())):
            return "its lease lapsed while its worker was stopped"
        if any(cut.meets(begun - RECONNECT, ended + FLUSH) for cut in self.cuts.get(pid, ())):
            return "its worker was cut off from the server"
        if any(outage.meets(begun - self.ack_wait, ended + FLUSH) for outage in self.server_outages):
            return "its lease lapsed while the server was away"
        return None
