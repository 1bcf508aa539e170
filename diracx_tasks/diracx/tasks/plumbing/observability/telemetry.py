"""What measures and traces, as those who are measured see it. `otel` implements it for OpenTelemetry.

Nothing is bound by default, and then nothing is measured: what is measured asks for `current()` once, when it is made,
and compares with None on its way. So bind before brokers and workers are made.

A trace is handed on all the same: the `traceparent` (W3C Trace Context) of a task goes to what it submits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery that is about to be processed."""

    task: str
    """`<category>:<ClassName>`; empty where the message does not say."""
    id: str
    subject: str
    consumer: str
    """The durable consumer that delivered it."""
    headers: Mapping[str, str]
    size: int
    """Bytes of the body."""
    delivered: int
    """How often it was delivered, this time included."""
    retries: int
    """How often it has failed."""
    waited: float | None
    """Seconds from when it was due, or stored, to its first delivery; None for a later one."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One of several tasks that are about to be published together."""

    subject: str
    headers: dict[str, str]
    """These are given the context of the trace."""
    size: int
    """Bytes of the body."""


class Processing(Protocol):
    """A delivery in the course of being processed."""

    def end(self, outcome: str, error: str | None) -> None:
        """Tell what became of it.

        Args:
            outcome: In one word, e.g. `succeeded`.
            error: The class of the error that it failed with, and its message.
        """


class Telemetry(Protocol):
    """Takes measurements. No method may raise or block."""

    def publishing(self, subject: str, headers: dict[str, str], size: int) -> AbstractContextManager[object]:
        """Wrap one publish; `headers` are given the context of the trace."""

    def publishing_together(self, subject: str, messages: Sequence[Outgoing]) -> AbstractContextManager[object]:
        """Wrap one publish of several tasks; the headers of each are given the context of a trace of its own.

        Args:
            subject: What they have in common, with wildcards.
        """

    def processing(self, received: Received) -> AbstractContextManager[Processing]:
        """Wrap the processing of one delivery; what is done inside belongs to its trace."""

    def lock_lost(self, key: str) -> None:
        """A lock was lost while its task executed."""

    def loop_lagged(self, seconds: float) -> None:
        """A look, four times a second, at how late the event loop of a worker is."""


current_traceparent: ContextVar[str | None] = ContextVar("diracx_tasks_traceparent", default=None)
"""That of the task that executes here, where its message brought one."""

_bound: list[Telemetry] = []


def current() -> Telemetry | None:
    """The telemetry of this process; None: nothing is measured."""
    return _bound[-1] if _bound else None


@contextmanager
def bound(telemetry: Telemetry) -> Iterator[None]:
    """Measure what is made until the end of the block."""
    _bound.append(telemetry)
    try:
        yield
    finally:
        _bound.remove(telemetry)
