"""The `nats` command, typed by an operator."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import sys
from pathlib import Path

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.operations.accounts import password_variable
from diracx.tasks.plumbing.wire.names import Namespace
from support.paths import NATS_FOLDER, TOP
from support.secured import password
from support.terminal import run_on_terminal

COMMAND_SECONDS = 20.0


def find_nats() -> str | None:
    """The path of the `nats` command: on the PATH, or where `.ci/run` installs it."""
    beside = TOP / ".venv" / "go" / "bin"
    return shutil.which("nats") or shutil.which("nats", path=str(beside))


@dataclasses.dataclass
class OperatorShell:
    """A shell on a terminal, with a home folder of its own and the operators' passwords in its environment."""

    server: EmbeddedServer
    home: Path
    namespace: str
    folder: Path = NATS_FOLDER

    async def type_in(self, command: str, code: int = 0) -> str:
        """Run one command line, which must end with this exit code; return its output."""
        with run_on_terminal(["/bin/sh", "-c", command], self._environment(), self.folder) as terminal:
            reading = asyncio.create_task(asyncio.to_thread(terminal.read_to_the_end))
            await asyncio.wait([reading], timeout=COMMAND_SECONDS)
            terminal.process.kill()
            returned = await reading
        assert returned == code, f"$ {command}\n{terminal.text}\nexit code {returned}"
        return terminal.text

    def _environment(self) -> dict[str, str]:
        names = Namespace(self.namespace)
        passwords = {password_variable(names, role): password(names.name, role) for role in ("operator", "observer")}
        return passwords | {
            "PATH": f"{Path(find_nats() or '').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            # The nats command does not read HOME, and would otherwise add contexts to the real home.
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "TERM": "dumb",
            "NATS_URL": self.server.url,
            "NATS_ADMIN_PASSWORD": password("sys", "admin"),
        }
