"""The console script as a process, and a view of what it left on the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.paths import CONSOLE_SCRIPT
from support.queues import remove_mesh

EACH_COMMAND = Path(__file__).with_name("each_command.py")
COMMAND_SECONDS = 60.0
"""How long a command that is run to its end may take."""


def isolated_environment(folder: Path, url: str, namespace: str) -> dict[str, str]:
    """The environment of a process that finds the distributions in `folder / "site"`, and no setting of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIRACX_")}
    return inherited | {
        "PYTHONPATH": str(folder / "site"),
        # Contexts of the nats command; `dev` writes one.
        "XDG_CONFIG_HOME": str(folder / "config"),
        "DIRACX_TASKS_NATS_URL": url,
        "DIRACX_TASKS_NAMESPACE": namespace,
    }


@dataclass
class CommandLine:
    """Runs the console script with one environment, in one folder. The fixture `bare` kills what is still running."""

    environment: dict[str, str] = field(repr=False)
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self, *arguments: str, typed: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Args:
            typed: Its standard input; empty if not given.
            environment: Variables on top of those of this command line.
        """
        return subprocess.run(
            [str(CONSOLE_SCRIPT), *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            # A pipe, and not the null device, which is a file with what others write to it in some containers.
            input=typed or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )

    def each(self, commands: Iterable[Sequence[str]], **environment: str) -> list[subprocess.CompletedProcess[str]]:
        """Run commands one after another in one process: to start it takes longer than the commands themselves.

        Args:
            commands: The arguments of each.
            environment: Variables on top of those of this command line.
        """
        typed = [list(arguments) for arguments in commands]
        done = subprocess.run(
            # -P: modules of `support` must not hide extensions of the same name.
            [sys.executable, "-P", str(EACH_COMMAND)],
            env=self.environment | environment,
            cwd=self.folder,
            input=json.dumps(typed),
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * COMMAND_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        results = map(json.loads, done.stdout.splitlines())
        return [
            subprocess.CompletedProcess(arguments, *result) for arguments, result in zip(typed, results, strict=True)
        ]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command whose input and output are pipes."""
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
        """Run a command with `--json`; return the document that it writes."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def journal(self) -> list[str]:
        """The lines that the tasks have written to their journal, in order."""
        path = self.folder / "journal"
        return path.read_text().splitlines() if path.exists() else []

    async def wait_for_line(self, line: str, count: int = 1) -> None:
        """Wait until a line is in the journal `count` times."""
        await wait_until(lambda: self.journal().count(line) >= count, description=f"{line!r} {count} times", timeout=30)

    def release(self, name: str) -> None:
        """Let the task `Waits(name)` end."""
        (self.folder / name).touch()


@dataclass
class OnTheServer:
    """The streams and buckets that the shared server holds in the namespace of the test."""

    connection: Connection
    names: Namespace

    async def set_up(self) -> None:
        """Create the streams, queues and buckets, as `setup` does; without a process, which takes longer to start."""
        await ensure(self.connection, assets(self.names))

    async def count(self, stream: str) -> int:
        """How many messages a stream holds; 0 when it does not exist."""
        streams = (await self.connection.api("STREAM.LIST"))["streams"] or []
        return sum(each["state"]["messages"] for each in streams if each["config"]["name"] == stream)

    async def waiting(self) -> int:
        """How many tasks are not settled."""
        return await self.count(self.names.tasks_stream)

    async def attempts(self) -> int:
        """How many records of attempts are stored."""
        return await self.count(f"KV_{self.names.attempts_bucket}")

    async def locks(self) -> int:
        """How many locks are held."""
        return await self.count(f"KV_{self.names.locks_bucket}")

    async def renewal(self, key: str) -> None:
        """Wait until the lock with this key is taken and then renewed."""
        bucket = Bucket(self.connection, self.names.locks_bucket)
        seen: set[int] = set()

        async def renewed() -> bool:
            if await self.locks() and (entry := await bucket.read(key)) is not None:
                seen.add(entry.revision)
            return len(seen) > 1

        await wait_until(renewed, description=f"{key} is renewed", timeout=30)

    async def remove(self) -> None:
        """Remove the streams and buckets."""
        await remove_mesh(self.connection, self.names)
