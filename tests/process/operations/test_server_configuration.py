"""A server starts with the unchanged files of `nats/`, by the commands of the operators' page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from diracx.tasks.cli.commands.setup import export
from diracx.tasks.plumbing.embedded.server import find_nats_server
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.operations.accounts import password_variable, user_name
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.certificates import Authority
from support.paths import NATS_FOLDER as FOLDER
from support.secured import ROLES

SERVER = "nats-server -c server.conf"


def blocks() -> list[str]:
    """The indented blocks of the section `Start`."""
    section = (FOLDER / "README.md").read_text().partition("\n## Start\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^ {4}.*\n)+", section, flags=re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]


class Shell:
    """An operator's shell: exported variables stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("DIRACX_", "NATS_"))
        }
        programs = f"{Path(find_nats_server()).parent}:{Path(shutil.which('diracx-task-run') or '').parent}"
        self.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        self.server: subprocess.Popen[bytes] | None = None

    def type_in(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", f"{text}\nenv -0 >environment"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        lines = (self.folder / "environment").read_text().split("\0")
        self.environment = dict(line.split("=", 1) for line in lines if line)
        return done.stdout

    async def start(self) -> None:
        """Start the server on free loopback ports; its files determine everything else."""
        server = self.server = self._launch()
        ports = self.folder / f"nats-server_{server.pid}.ports"

        def listens() -> bool:
            assert server.poll() is None, (self.folder / "server.log").read_text()
            return ports.exists() and bool(ports.read_text())

        await wait_until(listens, description="the server listens", timeout=20)
        self.environment["NATS_URL"] = json.loads(ports.read_text())["nats"][0]

    def _launch(self) -> subprocess.Popen[bytes]:
        flags = ["--addr", "127.0.0.1", "--port", "-1", "--http_port", "-1", "--ports_file_dir", "."]
        with (self.folder / "server.log").open("wb") as log:
            return subprocess.Popen([*SERVER.split(), *flags], cwd=self.folder, env=self.environment, stderr=log)

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(20)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shutil.copytree(FOLDER, tmp_path / "nats")
    shell = Shell(tmp_path / "nats")
    prepare, _, rest = blocks()[0].partition(SERVER)
    assert not rest.strip()
    shell.type_in(prepare.replace("/var/lib/nats", str(tmp_path / "store")))
    yield shell
    shell.stop()


async def all_roles_connect(shell: Shell, namespace: str, tls_ca: str | None = None) -> None:
    names = Namespace(namespace)
    for role in ROLES:
        settings = ConnectionSettings(
            servers=(shell.environment["NATS_URL"],),
            user=user_name(names, role),
            password=shell.environment[password_variable(names, role)],
            api_prefix=names.imported_api if role in ("producer", "observer") else None,
            tls_ca=tls_ca,
        )
        async with Connection.open(settings, name="a test", inbox_prefix=names.inbox_prefix(role)) as connection:
            assert connection.is_connected


async def test_a_server_starts_with_the_unchanged_files_and_the_operator_sets_up_the_mesh(
    shell: Shell, tmp_path: Path
) -> None:
    await shell.start()
    done = shell.type_in(blocks()[1])
    assert "created stream DIRACX_TASKS" in done
    assert "created consumer normal-small" in done
    log = (shell.folder / "server.log").read_text()
    assert "Server is ready" in log
    assert "[ERR]" not in log
    await all_roles_connect(shell, "diracx")
    assert (tmp_path / "store" / "jetstream" / "DIRACX" / "streams" / "DIRACX_TASKS").is_dir()


async def test_a_server_encrypts_once_the_last_line_is_uncommented(shell: Shell, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.server()
    configuration = shell.folder / "server.conf"
    *lines, last = configuration.read_text().splitlines()
    configuration.write_text("\n".join([*lines, last.removeprefix("# ")]) + "\n")
    shell.environment |= {"NATS_TLS_CERT": str(certificate), "NATS_TLS_KEY": str(key)}
    await shell.start()
    shell.environment["DIRACX_TASKS_TLS_CA"] = str(authority.ca)
    assert "created stream DIRACX_TASKS" in shell.type_in(blocks()[1])
    await all_roles_connect(shell, "diracx", str(authority.ca))


async def test_a_second_namespace_is_added(shell: Shell) -> None:
    (command,) = blocks()[2].splitlines()
    assert "wrote acme/accounts.conf" in shell.type_in(command)
    configuration = shell.folder / "server.conf"
    text = configuration.read_text()
    assert '# include "acme/accounts.conf"' in text
    configuration.write_text(text.replace('# include "acme/accounts.conf"', 'include "acme/accounts.conf"'))
    shell.environment |= {password_variable(Namespace("acme"), role): f"p{role}" for role in ROLES}
    await shell.start()
    await all_roles_connect(shell, "diracx")
    await all_roles_connect(shell, "acme")


@pytest.mark.parametrize("missing", ["NATS_STORE_DIR", "NATS_ADMIN_PASSWORD", "DIRACX_PRODUCER_PASSWORD"])
def test_a_server_does_not_start_without_its_passwords_and_paths(shell: Shell, missing: str) -> None:
    del shell.environment[missing]
    done = subprocess.run(
        [*SERVER.split(), "-t"], cwd=shell.folder, env=shell.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"variable reference for '{missing}'" in done.stderr


def test_the_accounts_file_is_the_one_that_the_code_generates(tmp_path: Path) -> None:
    export(Namespace(), 1, tmp_path)
    ours, written = FOLDER / "accounts.conf", tmp_path / "accounts.conf"
    assert ours.read_text() == written.read_text(), "generate the files again: diracx-task-run setup --export nats"
