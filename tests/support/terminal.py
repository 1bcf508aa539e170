"""The console script on a terminal of its own: what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from support.command_line import CONSOLE_SCRIPT, CommandLine

_PRESSED_AGAIN = 0.5
"""Seconds."""
_TOP = "\x1b[H"
_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")


class Terminal:
    """A running command, and all that it wrote on its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._written = b""
        self._ours = ours

    @property
    def written(self) -> str:
        """All that it wrote."""
        return self._written.decode(errors="ignore")

    @property
    def text(self) -> str:
        """The same without colours and other steering."""
        return _SEQUENCE.sub("", self.written).replace("\r\n", "\n")

    @property
    def screen(self) -> str:
        """What was drawn last from the top on, and is whole."""
        return _SEQUENCE.sub("", self.written.split(_TOP)[-2])

    def type(self, text: str) -> None:
        """As on the keyboard."""
        os.write(self._ours, text.encode())

    def resize(self, columns: int, lines: int) -> None:
        """As when its window is pulled; the command is told by a signal."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_until(self, words: str) -> None:
        """Read on until it has written some words, from here on."""
        begin = len(self.text)
        while words not in self.text[begin:]:
            assert self._read(), f"{words!r} was not written: {self.text}"

    def read_to_the_end(self) -> int:
        """Read until it ends; its exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def interrupt(self) -> int:
        """Press Ctrl-C until it ends; its exit code.

        Once may not do: CPython's `input` misses a signal that comes just before it waits for a key.
        """
        while True:
            self.type("\x03")
            while select.select([self._ours], [], [], _PRESSED_AGAIN)[0]:
                if not self._read():
                    return self.process.wait(timeout=60)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._ours, 65_536)
        except OSError:  # Linux: the other end is closed
            return False
        self._written += chunk
        return bool(chunk)


@contextmanager
def on_terminal(
    command_line: CommandLine,
    *arguments: str,
    program: str = str(CONSOLE_SCRIPT),
    columns: int = 80,
    lines: int = 24,
    **environment: str,
) -> Iterator[Terminal]:
    """Run a command for the block; it is killed if it has not ended by then."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    inherited = {name: value for name, value in command_line.environment.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [program, *arguments],
        env=inherited | {"TERM": "xterm-256color"} | environment,
        cwd=command_line.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # The terminal is its own, so that Ctrl-C and a resize reach it.
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def shown(command_line: CommandLine, *arguments: str, columns: int = 80, **environment: str) -> str:
    """All that a command shows until it ends, well."""
    with on_terminal(command_line, *arguments, columns=columns, **environment) as terminal:
        assert terminal.read_to_the_end() == 0, terminal.text
        return terminal.text
