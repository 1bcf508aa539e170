"""Programs on a pseudo-terminal, and the output that a person would see there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from support.command_line import CommandLine
from support.paths import CONSOLE_SCRIPT

PRESS_AGAIN_SECONDS = 0.5
CURSOR_HOME = "\x1b[H"
ESCAPE_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])")


class Terminal:
    """A running program, and its output on the terminal. Made by `run_on_terminal`."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._written = b""
        self._ours = ours

    @property
    def written(self) -> str:
        """The output so far, with escape sequences."""
        return self._written.decode(errors="ignore")

    @property
    def text(self) -> str:
        """The output so far without escape sequences, with plain line ends."""
        return ESCAPE_SEQUENCE.sub("", self.written).replace("\r\n", "\n")

    @property
    def screen(self) -> str:
        """The last complete screen of a program that redraws from the top."""
        return ESCAPE_SEQUENCE.sub("", self.written.split(CURSOR_HOME)[-2])

    def type(self, text: str) -> None:
        """Write to the keyboard."""
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
        """Read until the program ends; return its exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def interrupt(self) -> int:
        """Press Ctrl-C until the program ends; return its exit code.

        Once may not be enough: CPython's `input` misses a signal that comes just before it waits for a key.
        """
        while True:
            self.type("\x03")
            while select.select([self._ours], [], [], PRESS_AGAIN_SECONDS)[0]:
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
def run_on_terminal(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, *, columns: int = 0, lines: int = 0
) -> Iterator[Terminal]:
    """Run a program on a terminal of its own; it is killed if it has not ended by the end of the block.

    Args:
        columns: Of the terminal; 0 if it does not say.
        lines: Likewise.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # A session of its own, whose controlling terminal this is: Ctrl-C and a resize reach the program.
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


def on_terminal(
    command_line: CommandLine,
    *arguments: str,
    program: str = str(CONSOLE_SCRIPT),
    columns: int = 80,
    lines: int = 24,
    **environment: str,
) -> AbstractContextManager[Terminal]:
    """Run the console script, or another program, on a terminal with the environment of a command line."""
    inherited = {name: value for name, value in command_line.environment.items() if name not in ("COLUMNS", "LINES")}
    variables = inherited | {"TERM": "xterm-256color"} | environment
    return run_on_terminal([program, *arguments], variables, command_line.folder, columns=columns, lines=lines)


def shown(command_line: CommandLine, *arguments: str, columns: int = 80) -> str:
    """The output of a command that succeeds, as `Terminal.text`."""
    with on_terminal(command_line, *arguments, columns=columns) as terminal:
        assert terminal.read_to_the_end() == 0, terminal.text
        return terminal.text
