"""A script that runs one nats-server for as long as its parent lives.

Usage: `python -S -E -s supervisor.py DIRECTORY NATS_SERVER`. The script uses the standard library only, so that it
starts at once. DIRECTORY contains `server.conf`, `server.log` and a temporary store. The script removes it at the end.

Protocol: the parent writes `start`, `stop`, `kill` or `close` to standard input, one a line. Each of the first three is
answered by one line of JSON on standard output.

The script stops the server and ends:

* at `close`.
* at the end of file on standard input: the parent has ended, also by `kill -9`. (A parent-death signal would fire when
  the thread ends that started the script.)
* when the server ends without a command.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 20.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.01
LOG_LINES = 5


class Supervisor:
    """Owns the server process and DIRECTORY."""

    def __init__(self, directory: Path, program: str) -> None:
        self.directory = directory
        self.program = program
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, object]:
        """Start the server, and wait until it listens."""
        for ports in self.directory.glob("*.ports"):
            ports.unlink()
        with open(self.directory / "server.log", "ab") as log:
            self.server = subprocess.Popen(
                [self.program, "--config", str(self.directory / "server.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            url = self._url()
            if url:
                return {"url": url, "pid": self.server.pid}
            if self.server.poll() is not None:
                return self._failed(f"nats-server ended at once, exit code {self.server.wait()}")
            time.sleep(POLL_SECONDS)
        self.end(signal.SIGKILL)
        return self._failed(f"nats-server did not start within {START_SECONDS:g} s")

    def end(self, how: signal.Signals) -> dict[str, object]:
        """Send a signal and wait for the end; after `STOP_SECONDS` kill the server."""
        server, self.server = self.server, None
        if server is not None and server.poll() is None:
            server.send_signal(how)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        return {"ended": True}

    def serve(self, child_ended: int) -> None:
        """Execute commands until `close`, until the parent has ended, or the server without a command."""
        pending = b""
        while True:
            readable, _, _ = select.select([0, child_ended], [], [])
            if child_ended in readable:
                os.read(child_ended, 4096)
                if self.server is not None and self.server.poll() is not None:
                    return
            if 0 in readable:
                received = os.read(0, 4096)
                if not received:
                    return
                *commands, pending = (pending + received).split(b"\n")
                for command in commands:
                    if command == b"close":
                        return
                    answer(self.execute(command))

    def execute(self, command: bytes) -> dict[str, object]:
        """Execute one command, and return the answer."""
        if command == b"start":
            return self.start()
        return self.end(signal.SIGKILL if command == b"kill" else signal.SIGTERM)

    def _url(self) -> str | None:
        for ports in self.directory.glob("*.ports"):
            try:
                return str(json.loads(ports.read_text())["nats"][0])
            except ValueError:
                # The server writes the file in place, so it may be incomplete.
                return None
        return None

    def _failed(self, problem: str) -> dict[str, object]:
        self.server = None
        lines = (self.directory / "server.log").read_text(errors="replace").splitlines()
        causes = [line for line in lines if "[FTL]" in line or "[ERR]" in line]
        return {"failed": problem, "log": (causes or lines)[-LOG_LINES:]}


def answer(content: dict[str, object]) -> None:
    """Send an answer to the parent. If it has ended already, the end of file on standard input follows."""
    try:
        os.write(1, json.dumps(content).encode() + b"\n")
    except BrokenPipeError:
        return


def main() -> None:
    """Run until the parent or the server ends, and clean up."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # Ctrl-C is meant for the parent, which needs the server for an orderly stop.
        signal.signal(ignored, signal.SIG_IGN)
    child_ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    directory = Path(sys.argv[1])
    supervisor = Supervisor(directory, sys.argv[2])
    try:
        supervisor.serve(child_ended)
    finally:
        supervisor.end(signal.SIGTERM)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
