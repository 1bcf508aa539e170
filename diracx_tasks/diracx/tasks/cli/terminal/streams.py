"""Standard output and standard error, on whatever a shell has connected them to.

* A character that the encoding lacks is written as an escape, such as `\\xe9`. So is a lone surrogate.
* What cannot be written is dropped: the disk is full, the reader of a pipe is gone, or the terminal is. A command never
  fails half done for the sake of its output, nor does a task that prints. `check_written` tells who needs to know.
* A descriptor that is closed is opened on the null device. Otherwise the next file or socket would take its number, and
  get what is printed.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Final, TextIO

from diracx.tasks.cli.terminal.printable import printable

_LOST_SHOWN: Final = 200
"""Of the text that was lost, a warning shows so many bytes: the id of a task, or a short result."""


class OutputLostError(Exception):
    """What a command shows could not be written to standard output.

    Args:
        error: The system's.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.reader_is_gone = error.errno == errno.EPIPE
        """Whether the other end of a pipe was closed, as by `head`: it has read all that it wants."""


class _Descriptor(io.FileIO):
    """Writes to a descriptor, and never fails."""

    lost: OSError | None = None
    """The first error."""
    lost_bytes: bytes = b""
    """The beginning of what was not written then."""

    def write(self, data: object) -> int:
        """Write all of some bytes, or drop the rest."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # any buffer
        done = 0
        try:
            while done < view.nbytes:
                written = super().write(view[done:])
                if written is None:  # somebody else made the pipe non-blocking, and it is full
                    select.select([], [self.fileno()], [])
                done += written or 0
        except OSError as error:
            if self.lost is None:
                self.lost, self.lost_bytes = error, bytes(view[done : done + _LOST_SHOWN])
        return view.nbytes


def open_streams() -> None:
    """Set `sys.stdout` and `sys.stderr` of this process, and `sys.stdin` if there is none. Call it first."""
    if sys.stdin is None:
        sys.stdin = open(_null_device(os.O_RDONLY), encoding="utf-8")  # noqa: SIM115 - it stays open
    sys.stdout = _opened(sys.stdout, 1)
    sys.stderr = _opened(sys.stderr, 2)


def _opened(before: TextIO | None, number: int) -> TextIO:
    if before is None:
        return _text(_null_device(os.O_WRONLY), "utf-8", line_buffering=True, write_through=False)
    before.flush()
    return _reopened(before, number)


def _reopened(before: TextIO, number: int) -> TextIO:
    write_through = bool(getattr(before, "write_through", False))
    return _text(number, before.encoding, line_buffering=bool(before.line_buffering), write_through=write_through)


def _null_device(flags: int) -> int:
    """Open it: on the lowest free descriptor, so on the one that is closed."""
    number = os.open(os.devnull, flags)
    os.set_inheritable(number, True)
    return number


def _text(number: int, encoding: str, *, line_buffering: bool, write_through: bool) -> TextIO:
    sink = _Descriptor(number, "w", closefd=False)
    return io.TextIOWrapper(
        sink if write_through else io.BufferedWriter(sink),
        encoding,
        "backslashreplace",
        line_buffering=line_buffering,
        write_through=write_through,
    )


def stream_of_the_log() -> TextIO:
    """Return a stream of its own on standard error: who closes or replaces `sys.stderr` leaves it alone.

    Where somebody has replaced `sys.stderr` already, as a test does, it is that one.
    """
    return sys.stderr if _sink(sys.stderr) is None else _reopened(sys.stderr, 2)


def usable(stream: TextIO, number: int) -> TextIO:
    """Return a standard stream that code of others may have closed, or a new one on its descriptor."""
    try:
        stream.flush()
    except ValueError:  # it is closed, or its buffer was taken away
        return _text(number, "utf-8", line_buffering=True, write_through=False)
    return stream


def in_colours() -> bool:
    """Whether text on standard output may have colours: rich decides so, too, by the terminal and by two variables."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (
        sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    )


def check_written() -> None:
    """Write what is left in the buffer of standard output.

    Raises:
        OutputLostError: Something could not be written to it, now or earlier.
    """
    sys.stdout.flush()
    if (sink := _sink(sys.stdout)) is not None and sink.lost is not None:
        raise OutputLostError(sink.lost)


def warn_of_lost_output() -> None:
    """Say on standard error what could not be written to standard output. That the reader is gone is no news."""
    sys.stdout.flush()
    sink = _sink(sys.stdout)
    if sink is not None and sink.lost is not None and sink.lost.errno != errno.EPIPE:
        text = printable(sink.lost_bytes.decode(sys.stdout.encoding, "backslashreplace").rstrip())
        print(f"warning: standard output cannot be written, {sink.lost.strerror}: {text}", file=sys.stderr)


def _sink(stream: TextIO) -> _Descriptor | None:
    """None: the stream was not made here."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Descriptor) else None
