"""The console script as a process, and a look at what it left on the server."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.paths import CONSOLE_SCRIPT


@dataclass
class CommandLine:
    """Runs the console script with one environment; what it started is ended with the test."""

    environment: dict[str, str] = field(repr=False)
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self, *arguments: str, typed: str | None = None, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            [str(CONSOLE_SCRIPT), *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            input=typed,
            stdin=subprocess.DEVNULL if typed is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start, with pipes."""
        process = subprocess.Popen(
            [str(CONSOLE_SCRIPT), *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def json(self, *arguments: str) -> Any:
        """The one document that a command writes."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def journal(self) -> list[str]:
        """What the tasks have noted, in order."""
        path = self.folder / "journal"
        return path.read_text().splitlines() if path.exists() else []

    async def noted(self, line: str, count: int = 1) -> None:
        """Wait until the tasks have noted a line so many times."""
        await wait_until(lambda: self.journal().count(line) >= count, description=f"{line!r} {count} times", timeout=30)

    def release(self, name: str) -> None:
        """Let the task `Waits(name)` end."""
        (self.folder / name).touch()


@dataclass
class OnTheServer:
    """What the shared server holds in the namespace of the test."""

    connection: Connection
    names: Namespace

    async def count(self, stream: str) -> int:
        """Messages in a stream; 0 when there is none yet."""
        streams = (await self.connection.api("STREAM.LIST"))["streams"] or []
        return sum(each["state"]["messages"] for each in streams if each["config"]["name"] == stream)

    async def waiting(self) -> int:
        """Tasks in the queues, those in hand included."""
        return await self.count(self.names.tasks_stream)

    async def attempts(self) -> int:
        """Records of what was tried."""
        return await self.count(f"KV_{self.names.attempts_bucket}")

    async def locks(self) -> int:
        """Locks that are held."""
        return await self.count(f"KV_{self.names.locks_bucket}")

    async def renewal(self, key: str) -> None:
        """Wait until a lock is taken, and then renewed."""
        bucket = Bucket(self.connection, self.names.locks_bucket)
        seen: set[int] = set()

        async def renewed() -> bool:
            if await self.locks() and (entry := await bucket.read(key)) is not None:
                seen.add(entry.revision)
            return len(seen) > 1

        await wait_until(renewed, description=f"{key} is renewed", timeout=30)

    async def remove(self) -> None:
        """Remove the streams: the space that they reserve would fill a shared server."""
        streams = (await self.connection.api("STREAM.NAMES")).get("streams") or []
        prefix = f"{self.names.name}_"
        for name in streams:
            if name.removeprefix("KV_").lower().startswith(prefix):
                await self.connection.api(f"STREAM.DELETE.{name}")
