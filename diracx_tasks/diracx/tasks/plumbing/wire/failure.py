"""One failed execution, as attempt records and dead letters store it."""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from diracx.tasks.plumbing.wire.bounds import AwareTime

_MAX_MESSAGE_CHARS = 2_000
_MAX_TRACEBACK_CHARS = 8_000


class Failure(msgspec.Struct, frozen=True):
    """The error of a failed execution, its worker and its time.

    A long message keeps its first 2,000 characters, a long traceback its last 8,000.
    """

    type: str
    """The class of the exception, with its module unless it is built in."""
    message: str
    traceback: str
    """Empty if it would not help, e.g. for a retry that the task asked for."""
    worker: str
    at: AwareTime
    """Aware, in UTC."""

    @classmethod
    def of(
        cls, exception: BaseException, worker: str, *, with_traceback: bool = True, at: datetime | None = None
    ) -> Failure:
        """Describe an exception that was caught by the worker with this id, at that time; None: just now."""
        kind = type(exception)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return cls(
            type=name,
            message=_cut(message_of(exception), _MAX_MESSAGE_CHARS),
            traceback=_traceback(exception) if with_traceback else "",
            worker=worker,
            at=at or datetime.now(UTC),
        )


def shrinking(failures: Sequence[Failure]) -> Iterator[list[Failure]]:
    """Ever shorter lists of failures, the latest last, for a store with too little room. The first one is whole.

    The oldest failures lose their tracebacks, then all do, then the oldest failures are dropped. The last list
    is empty.
    """
    bare = [msgspec.structs.replace(failure, traceback="") for failure in failures]
    first = range(len(failures))
    yield from ([*bare[:whole_from], *failures[whole_from:]] for whole_from in first)
    yield from (bare[kept_from:] for kept_from in first)
    yield []


def message_of(value: object) -> str:
    """Return the text of an exception that an author's code raised, or of its result: `__str__` may raise, too."""
    try:
        return _encodable(str(value))
    except BaseException as error:  # the author's __str__ must hide neither the failure nor the success
        return f"<str() of it raised {type(error).__name__}>"


def _traceback(exception: BaseException) -> str:
    try:
        text = _encodable("".join(tracebacks.format_exception(exception)))
    except BaseException as error:
        return f"<formatting it raised {type(error).__name__}>"
    return text if len(text) <= _MAX_TRACEBACK_CHARS else f"[cut]\n{text[-_MAX_TRACEBACK_CHARS:]}"


def _encodable(text: str) -> str:
    # A lone surrogate, e.g. of an undecodable file name, has no UTF-8 form, so the record could not be encoded.
    # Of `str` itself: an author's `__str__` may return a subclass.
    return str.encode(text, "utf-8", "backslashreplace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} [cut]"
