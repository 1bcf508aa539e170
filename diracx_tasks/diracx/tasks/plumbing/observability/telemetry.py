"""The interface of traces and metrics for the code that they measure. `otel` implements it with OpenTelemetry.

By default nothing is bound, and nothing is measured. Brokers and workers read `current()` once, in their constructor,
and then only compare with None. So bind the telemetry before you create them.

Traces continue without telemetry, too: the `traceparent` (W3C Trace Context) of a task goes to the tasks that it
submits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery, before it is processed."""

    task: str
    """`<category>:<ClassName>`; empty if the message has no name."""
    id: str
    subject: str
    consumer: str
    """The durable consumer that delivered it."""
    headers: Mapping[str, str]
    size: int
    """The size of the body in bytes."""
    delivered: int
    """The number of deliveries, this one included."""
    retries: int
    """The number of retries so far, which is the number of failures."""
    waited: float | None
    """The seconds from its due time, else from its storage, to the first delivery; None for a later delivery."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One of several tasks, before they are published together."""

    subject: str
    headers: dict[str, str]
    """`publishing_together` adds the context of the trace."""
    size: int
    """The size of the body in bytes."""


class Raised(Protocol):
    """The error of one execution, as texts: the exception itself may be of another thread, and is gone."""

    @property
    def type(self) -> str:
        """The class of the exception, with its module unless it is built in."""

    @property
    def message(self) -> str:
        """The text of the exception."""

    @property
    def traceback(self) -> str:
        """Its traceback; empty if it would not help, e.g. for a retry that the task asked for."""


class Gauge(NamedTuple):
    """A value of now."""

    name: str
    """One of `otel.GAUGES`."""
    value: float
    attributes: Mapping[str, str]
    """Few values each: every combination is a series of its own."""


Gauges: TypeAlias = Callable[[], Iterable[Gauge]]
"""Gives values of now. For any thread; it must not block."""


class Processing(Protocol):
    """One delivery, while it is processed."""

    def end(self, outcome: str, error: str | None, raised: Raised | None = None) -> None:
        """Record the outcome.

        Args:
            outcome: One word, e.g. `succeeded`.
            error: `<class>: <message>` of the error, or a reason; None for a success.
            raised: The error of this very execution; None if it raised none, or was not executed.
        """


class Telemetry(Protocol):
    """Receives measurements. No method may raise or block."""

    def publishing(self, subject: str, headers: dict[str, str], size: int) -> AbstractContextManager[object]:
        """Wrap one publish, and add the context of the trace to `headers`."""

    def publishing_together(self, subject: str, messages: Sequence[Outgoing]) -> AbstractContextManager[object]:
        """Wrap one publish of several tasks, and add the context of a trace of its own to the headers of each.

        Args:
            subject: A subject with wildcards that matches those of all messages.
        """

    def processing(self, received: Received) -> AbstractContextManager[Processing]:
        """Wrap the processing of one delivery. Spans that start inside belong to its trace."""

    def lock_lost(self, key: str) -> None:
        """Record that a lock was lost while its task ran."""

    def loop_lagged(self, seconds: float) -> None:
        """Record the lag of the event loop of a worker, in seconds. Called four times a second."""

    def observing(self, gauges: Gauges) -> AbstractContextManager[object]:
        """Read `gauges` for each report within the block, on a thread of its own."""


current_traceparent: ContextVar[str | None] = ContextVar("diracx_tasks_traceparent", default=None)
"""The trace of the task that executes in this context; None if its message had no `traceparent`."""

_bound: list[Telemetry] = []


def current() -> Telemetry | None:
    """Return the telemetry of this process; None if nothing is measured."""
    return _bound[-1] if _bound else None


@contextmanager
def bound(telemetry: Telemetry) -> Iterator[None]:
    """Measure the brokers and workers that are created in the block. The latest binding counts."""
    _bound.append(telemetry)
    try:
        yield
    finally:
        _bound.remove(telemetry)


def observing(gauges: Gauges) -> AbstractContextManager[object]:
    """Have the telemetry of this process, if there is any, read `gauges` within the block."""
    telemetry = current()
    return nullcontext() if telemetry is None else telemetry.observing(gauges)
