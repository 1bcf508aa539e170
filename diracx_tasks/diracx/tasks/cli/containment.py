"""What code of an extension changes in this process while it is imported, and what a task does that `call` executes.

Put back, since a command could not do its work:

* `sys.stdin`, `sys.stdout` and `sys.stderr`; one that was closed is opened again
* the current folder: paths on the command line are relative to it
* the handlers of the signals in `_SIGNALS`: they stop the process, keep it alive when a connection breaks, and tell of
  the ends of its children
* filters of warnings that turn them into errors
* the log, see `own_log`

Kept, since it does no harm: other filters of warnings, `sys.excepthook`, the locale, the policy of asyncio, handlers of
other signals, and what it adds to the log.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

from diracx.tasks.cli.own_log import OwnLog
from diracx.tasks.cli.terminal.streams import usable

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)

_replaced: Final[list[object]] = []
"""Streams that were put in place of ours. One of them may close our buffer when it is deleted."""


@contextmanager
def contained() -> Iterator[None]:
    """Put back what the code in the block changes. Main thread only."""
    streams = sys.stdin, sys.stdout, sys.stderr
    folder = _current_folder()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        with _no_new_errors_from_warnings():
            yield
    finally:
        _put_streams_back(*streams)
        if folder is not None and folder != _current_folder():
            with suppress(OSError):
                os.chdir(folder)
        for number, handler in handlers.items():
            # None: code in C installed it.
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        if OwnLog.current is not None:
            OwnLog.current.restore()


def _put_streams_back(stdin: Any, stdout: Any, stderr: Any) -> None:
    for replaced, before in ((sys.stdout, stdout), (sys.stderr, stderr)):
        if replaced is not before:
            _replaced.append(replaced)
            with suppress(Exception):
                replaced.flush()
    sys.stdin, sys.stdout, sys.stderr = stdin, usable(stdout, 1), usable(stderr, 2)


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


@contextmanager
def _no_new_errors_from_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        before = list(warnings.filters)
        yield
        added = [each for each in warnings.filters if each not in before and each[0] != "error"]
    for filtered in reversed(added):
        action, message, category, module, line = cast("tuple[Any, ...]", filtered)
        warnings.filterwarnings(action, _pattern(message), category, _pattern(module), line)


def _pattern(expression: Any) -> str:
    """The text of a regular expression of a filter; None matches everything."""
    return str(getattr(expression, "pattern", expression) or "")
