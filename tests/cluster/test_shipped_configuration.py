"""Three servers with the files of `nats/cluster/`, as the operators' page and `scripts/cluster` start them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import find_nats_server
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.certificates import Authority
from support.command_line import CommandLine, isolated_environment
from support.distributions import install_extension
from support.paths import NATS_FOLDER, SCRIPTS
from support.processes import worker_process

TLS_LINE = '# include "tls.conf"'
SERVER = "nats-server -c cluster/server.conf"


class Script:
    """`scripts/cluster` with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPTS / "cluster_run"), *arguments, "--folder", str(self.folder)],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def status(self) -> dict[str, str]:
        """The line of each server and stream, by name."""
        return dict(line.split("  ", 1) for line in self("status").splitlines())

    def role(self, role: str) -> dict[str, str]:
        """The variables that the clients of a role need."""
        return dict(re.findall(r"^export (\w+)=(.*)$", (self.folder / f"{role}.env").read_text(), re.MULTILINE))


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    script = Script(tmp_path / "cluster")
    yield script
    if (script.folder / "cluster.json").exists():
        script("down")


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line with one task; the shipped accounts are those of the namespace `diracx`."""
    install_extension(
        tmp_path / "site",
        "lollygag_tasks",
        {"diracx.tasks.lollygag": {"SyncOwnersTask": "lollygag_tasks.tasks:SyncOwnersTask"}},
    )
    environment = isolated_environment(tmp_path, "", "diracx") | {"LOLLYGAG_FOLDER": str(tmp_path)}
    command_line = CommandLine(environment, tmp_path)
    yield command_line
    for process in command_line.started:
        with process:
            process.kill()


async def test_the_roles_work_on_the_shipped_servers_while_one_is_killed_and_one_restarted(
    script: Script, command_line: CommandLine
) -> None:
    said = script("up")
    url = script.role("operator")["DIRACX_TASKS_NATS_URL"]
    assert said.splitlines()[0] == f"export DIRACX_TASKS_NATS_URL={url}"
    assert script.run("up").stderr.startswith(f"error: there is a cluster in {script.folder} already")
    assert list(script.status()) == ["nats-1", "nats-2", "nats-3"]  # no stream yet
    setup = command_line("setup", "--replicas", "3", **script.role("operator"))
    assert setup.returncode == 0, setup.stderr
    command_line.environment |= script.role("worker")
    with worker_process(command_line, Size.SMALL) as worker:
        await worker.logs("tasks known")
        await submit(script, command_line, "alice")

        leader, follower = re.findall(r"nats-(\d)", script.status()["DIRACX_TASKS"])[:2]
        assert script("kill", follower) == ""
        assert script.status()[f"nats-{follower}"].endswith("ended")
        await submit(script, command_line, "bob")
        assert script("restart", follower) == ""
        all_current = re.compile(r"leader nats-\d, nats-\d current, nats-\d current")
        await wait_until(
            lambda: all_current.fullmatch(script.status().get("DIRACX_TASKS", "")),
            description="the server that is back has caught up",
            timeout=30,
        )

        assert script("restart", leader) == ""
        await submit(script, command_line, "carol")
        assert await worker.stop() == 0, worker.log
    lines = script.status()
    servers = [lines[f"nats-{place}"] for place in (1, 2, 3)]
    assert all("ready" in line for line in servers)
    assert sum("meta leader" in line for line in servers) == 1
    script("down")
    assert "error: no cluster in" in script.run("status").stderr
    assert (script.folder / "nats-1.store" / "jetstream" / "DIRACX" / "streams" / "DIRACX_TASKS").is_dir()


async def submit(script: Script, command_line: CommandLine, owner: str) -> None:
    """Submit a task as the producer, and wait until the worker has run it."""
    arguments = ("submit", "lollygag:SyncOwnersTask", "--args", json.dumps([owner]))
    done = command_line(*arguments, **script.role("producer"))
    assert done.returncode == 0, done.stderr
    await command_line.wait_for_line(f"sync {owner}")


def test_the_routes_are_encrypted_once_the_last_line_is_uncommented(script: Script, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    certificate, key = authority.server()
    shutil.copytree(NATS_FOLDER, changed := tmp_path / "nats")
    routes = changed / "cluster" / "routes.conf"
    *lines, last = routes.read_text().splitlines()
    assert last == TLS_LINE
    routes.write_text("\n".join([*lines, last.removeprefix("# ")]) + "\n")
    script.environment = {
        "NATS_CLUSTER_TLS_CERT": str(certificate),
        "NATS_CLUSTER_TLS_KEY": str(key),
        "NATS_CLUSTER_TLS_CA": str(authority.ca),
    }
    script("up", "--nats", str(changed))
    for server in json.loads((script.folder / "cluster.json").read_text())["servers"]:
        monitoring = HTTPConnection("127.0.0.1", server["monitoring_port"], timeout=10)
        monitoring.request("GET", "/varz")
        variables = json.load(monitoring.getresponse())
        monitoring.close()
        assert variables["cluster"]["tls_required"]
        assert variables["cluster"]["tls_verify"]
        assert variables["routes"] > 0


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(script: Script, tmp_path: Path) -> None:
    shutil.copytree(NATS_FOLDER, changed := tmp_path / "nats")
    (changed / "cluster" / "routes.conf").write_text("name: [\n")
    done = script.run("up", "--nats", str(changed))
    assert done.returncode == 1
    assert re.match(
        rf"error: nats-1 ended; {script.folder}/nats-1.log ends with: nats-server: .*routes.conf", done.stderr
    )


async def test_an_interrupted_start_can_be_looked_at_and_ended(script: Script) -> None:
    arguments = [str(SCRIPTS / "cluster_run"), "up", "--folder", str(script.folder)]
    starting = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=subprocess.PIPE)
    started = script.folder / "nats-3.log"
    await wait_until(started.exists, description="the last server is started", timeout=60)
    starting.send_signal(signal.SIGINT)
    _, errors = await starting.communicate()
    assert (starting.returncode, errors.count(b"\n")) == (130, 1), errors
    assert errors.startswith(b"interrupted; ")
    # There is no stream yet.
    assert set(script.status()) == {"nats-1", "nats-2", "nats-3"}
    script("down")
    listing = await asyncio.create_subprocess_exec("ps", "-axww", "-o", "args=", stdout=subprocess.PIPE)
    running, _ = await listing.communicate()
    assert f"{script.folder}/nats-".encode() not in running


def test_a_process_that_got_the_id_of_a_server_is_left_alone(script: Script) -> None:
    script("up")
    script("kill", "1")
    state = json.loads((script.folder / "cluster.json").read_bytes())
    with subprocess.Popen(["sleep", "600"]) as other:
        state["servers"][0]["pid"] = other.pid
        (script.folder / "cluster.json").write_text(json.dumps(state))
        assert script.status()["nats-1"].endswith("  ended")
        assert script("kill", "1") == script("down") == ""
        assert other.poll() is None
        other.kill()


def test_a_damaged_state_is_told_with_what_to_do(script: Script) -> None:
    script.folder.mkdir()
    (state := script.folder / "cluster.json").write_text("{")
    for command in ("status", "down"):
        done = script.run(command)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(f"error: {state} cannot be read (")
    state.unlink()


def test_the_commands_of_the_page_make_a_configuration_that_the_server_takes(tmp_path: Path) -> None:
    page = (NATS_FOLDER / "README.md").read_text()
    start, three = page.partition("\n## Start\n")[2].split("\n### Three servers\n")
    passwords, cluster = (indented(part).partition("nats-server -c ")[0] for part in (start, three))
    assert SERVER in three
    typed = passwords.replace("/var/lib/nats", str(tmp_path)) + cluster + SERVER + " -t"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DIRACX_", "NATS_"))}
    environment["PATH"] = f"{Path(find_nats_server()).parent}:{environment['PATH']}"
    shell = ["bash", "-euc", typed]
    done = subprocess.run(shell, cwd=NATS_FOLDER, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "configuration file cluster/server.conf is valid" in done.stderr


def indented(text: str) -> str:
    """The first indented block."""
    block = re.search(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE)
    assert block
    return re.sub(r"^ {4}", "", block[0], flags=re.MULTILINE)
