"""One failed execution, as it is kept in attempt records and dead letters."""

from __future__ import annotations

import traceback as tracebacks
from datetime import UTC, datetime

import msgspec

_LONGEST_MESSAGE = 2_000
_LONGEST_TRACEBACK = 8_000


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, where and when. Texts are cut to a limit: the end of a traceback is kept."""

    type: str
    """The exception's class, with its module unless built in."""
    message: str
    traceback: str
    """Empty where there is nothing to see, e.g. for a retry that the task asked for."""
    worker: str
    at: datetime

    @classmethod
    def of(cls, exception: BaseException, worker: str, *, with_traceback: bool = True) -> Failure:
        """Describe an exception that was just caught."""
        kind = type(exception)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return cls(
            type=name,
            message=_cut(_text(exception), _LONGEST_MESSAGE),
            traceback=_traceback(exception) if with_traceback else "",
            worker=worker,
            at=datetime.now(UTC),
        )


def _text(exception: BaseException) -> str:
    try:
        return _valid(str(exception))
    except Exception as error:  # an author's __str__ may itself fail, and must not hide the failure
        return f"<str() of it raised {type(error).__name__}>"


def _traceback(exception: BaseException) -> str:
    try:
        text = _valid("".join(tracebacks.format_exception(exception)))
    except Exception as error:
        return f"<formatting it raised {type(error).__name__}>"
    return text if len(text) <= _LONGEST_TRACEBACK else f"[cut]\n{text[-_LONGEST_TRACEBACK:]}"


def _valid(text: str) -> str:
    # A lone surrogate (of an undecodable file name, say) has no UTF-8, and the record could not be written.
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} [cut]"
