"""The `nats` command as an operator types it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pty
import shutil
import sys
from pathlib import Path

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.operations.accounts import password_variable
from diracx.tasks.plumbing.wire.names import Namespace
from support.paths import TOP
from support.secured import FOLDER, password


def find_nats() -> str | None:
    """The `nats` command: on the PATH, or where `.ci/run` puts it."""
    beside = TOP / ".venv" / "go" / "bin"
    return shutil.which("nats") or shutil.which("nats", path=str(beside))


@dataclasses.dataclass
class Terminal:
    """What an operator types into, with a home of its own and the passwords at hand."""

    server: EmbeddedServer
    home: Path
    namespace: str
    folder: Path = FOLDER

    async def type_in(self, command: str, code: int = 0) -> str:
        """Run one command line to its end, which it has to reach with this exit code; return what it wrote."""
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_shell(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environment(),
            cwd=self.folder,
            start_new_session=True,
        )
        os.close(slave)
        reading = asyncio.create_task(asyncio.to_thread(_read_all, master))
        try:
            async with asyncio.timeout(20):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            written = await reading
            os.close(master)
        assert process.returncode == code, f"$ {command}\n{written}\nexit code {process.returncode}"
        return written

    def _environment(self) -> dict[str, str]:
        names = Namespace(self.namespace)
        passwords = {password_variable(names, role): password(names.name, role) for role in ("operator", "observer")}
        return passwords | {
            "PATH": f"{Path(find_nats() or '').parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            # The nats command looks up whose home it is by itself, and would add contexts to the real one.
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "TERM": "dumb",
            "NATS_URL": self.server.url,
            "NATS_ADMIN_PASSWORD": password("sys", "admin"),
        }


def _read_all(terminal: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            chunk = b""
        if not chunk:
            return b"".join(chunks).decode("utf-8", "replace").replace("\r\n", "\n")
        chunks.append(chunk)
