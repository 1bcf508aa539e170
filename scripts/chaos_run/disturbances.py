"""The disturbances of a run and their times: nothing else excuses a repeated execution.

All times are seconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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


@dataclass(frozen=True)
class Outage(Span):
    """From just before a server was killed or stopped until it ran again, and everything that it led had a leader."""

    server: str = ""
    led: frozenset[str] | None = None
    """The streams that it led, and the consumers as `<stream>/<consumer>`; None: it was the only server."""
    pids: frozenset[int] = frozenset()
    """The processes that were connected to it."""
    led_again: float = 0.0
    """When everything that it led had a leader again."""
    why: str = ""
    """What it was killed for leading, or that it was restarted."""

    def concern(self, pid: int, groups: Iterable[str]) -> str | None:
        """Why it matters to a process that needs these streams and consumers; None: it does not."""
        if self.led is None:
            return "the server was killed"
        if (group := next((each for each in groups if each in self.led), None)) is not None:
            return f"the leader of {group} went away"
        return "the server that its worker was connected to went away" if pid in self.pids else None


@dataclass(frozen=True)
class Needs:
    """The streams and consumers of a cluster that a task depends on; none of them matter on a single server."""

    normal: tuple[str, ...] = ()
    """Deliveries, leases and acks of most tasks."""
    urgent: tuple[str, ...] = ()
    """The same of urgent ones."""
    end: tuple[str, ...] = ()
    """What is written before the ack."""
    locks: tuple[str, ...] = ()


@dataclass
class Disturbances:
    """All disturbances, by the process that they hit."""

    ack_wait: float
    needs: Needs = Needs()
    worker_kills: dict[int, Span] = field(default_factory=dict)
    """By pid: from just before the signal until the process had ended."""
    server_outages: list[Outage] = field(default_factory=list)
    """In the order of their beginning."""
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

    def cause_of_forgotten_end(self, pid: int, begun: float, ended: float, urgent: bool = False) -> str | None:
        """The reason why the server does not know the end of an execution; None if there is none."""
        delivery = self.needs.urgent if urgent else self.needs.normal
        if self.kill_within(pid, ended, ended + FLUSH_SECONDS):
            return "ended, and its worker was killed before the ack was out"
        for outage in self.server_outages:
            if outage.meets(ended - RECONNECT_SECONDS, ended + FLUSH_SECONDS) and (
                concern := outage.concern(pid, (*delivery, *self.needs.end))
            ):
                return f"ended, and {concern} before the ack was kept"
            if outage.begun - FLUSH_SECONDS <= begun <= outage.ended + RECONNECT_SECONDS and (
                concern := outage.concern(pid, delivery)
            ):
                return f"delivered, and {concern} before the delivery was kept"
        return self._cause_of_lapse(pid, begun, ended, delivery)

    def cause_of_second_firing(self, due: float) -> str | None:
        """The reason why one schedule fired twice: the server stores the task, then removes the schedule.

        On a cluster nothing excuses that: two servers know what the third one did.
        """
        only = (outage for outage in self.server_outages if outage.led is None)
        if any(outage.meets(due - RECONNECT_SECONDS, due + FLUSH_SECONDS) for outage in only):
            return "its schedule fired, and the server was killed before that was kept"
        return None

    def _cause_of_lapse(self, pid: int, begun: float, ended: float, delivery: tuple[str, ...]) -> str | None:
        if self.stop_within(pid, begun, ended + FLUSH_SECONDS):
            return _LAPSED
        if any(cut.meets(begun - RECONNECT_SECONDS, ended + FLUSH_SECONDS) for cut in self.cuts.get(pid, ())):
            return "its worker was cut off from the server"
        for outage in self.server_outages:
            if outage.meets(begun - self.ack_wait, ended + FLUSH_SECONDS) and (
                concern := outage.concern(pid, delivery)
            ):
                return f"its lease lapsed, since {concern}"
        return None

    def cause_of_lost_lock(self, pid: int, ended: float, ttl: float) -> str | None:
        """The reason why a task was cancelled for a lock that it could not renew; None if there is none."""
        for outage in self.server_outages:
            if outage.meets(ended - ttl, ended) and (concern := outage.concern(pid, self.needs.locks)):
                return f"its lock lapsed, since {concern}"
        return None
