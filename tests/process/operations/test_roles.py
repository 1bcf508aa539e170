"""Each role does its work on the server of `nats/`, in a process with only the permissions of its role."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
import rich_click as click

from diracx.tasks.cli.app import app
from diracx.tasks.cli.lazy import LazyCommand
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection.nats_contexts import write_context
from diracx.tasks.plumbing.operations.accounts import user_name
from diracx.tasks.plumbing.results.record import ResultRecord
from diracx.tasks.plumbing.wire.ending import Status
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.paths import NATS_FOLDER as FOLDER
from support.permission_table import COMMANDS, FAR, table
from support.secured import ROLES, connected, password, secured_server

NAMESPACE = "diracx"
README = FOLDER / "README.md"
QUEUES = [asset.name for asset in assets(Namespace(NAMESPACE)) if asset.kind == "consumer"]


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(NAMESPACE) as server:
        yield server


@dataclasses.dataclass
class Roles:
    """Runs the console script as each role, and keeps its output."""

    command_line: CommandLine
    url: str
    written: list[str] = dataclasses.field(default_factory=list)

    def environment(self, role: str) -> dict[str, str]:
        return {
            "DIRACX_TASKS_NATS_URL": self.url,
            "DIRACX_TASKS_NAMESPACE": NAMESPACE,
            "DIRACX_TASKS_USER": user_name(Namespace(NAMESPACE), role),
            "DIRACX_TASKS_PASSWORD": password(NAMESPACE, role),
        }

    def run(self, role: str, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = self.command_line(*arguments, **(self.environment(role) | environment))
        self.written += [done.stdout, done.stderr]
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        return done

    def run_each(
        self, role: str, commands: list[list[str]], **environment: str
    ) -> list[subprocess.CompletedProcess[str]]:
        found = self.command_line.each(commands, **(self.environment(role) | environment))
        self.written += [text for done in found for text in (done.stdout, done.stderr)]
        return found

    def start(self, role: str, *arguments: str) -> subprocess.Popen[str]:
        return self.command_line.start(*arguments, **self.environment(role))

    def end(self, process: subprocess.Popen[str]) -> None:
        process.terminate()
        self.written += process.communicate(timeout=30)
        assert process.returncode == 0, self.written[-1]


ROLES_OF = {command.name: command.roles for command in COMMANDS}


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Standard error without the warnings about the extension's broken tasks, and without debug lines."""
    noise = ("warning: lollygag:", ": lollygag:", "not served: lollygag:", " DEBUG ")
    return [line for line in done.stderr.splitlines() if not any(each in line for each in noise)]


@pytest.fixture
def as_role(extension: CommandLine, secured: EmbeddedServer) -> Iterator[Roles]:
    extension.environment = {
        name: value for name, value in extension.environment.items() if not name.startswith("DIRACX_TASKS_")
    }
    roles = Roles(extension, secured.url)
    yield roles
    # No output shows a secret, whether the command failed or not.
    everything = "\n".join(roles.written)
    assert not [role for role in ROLES if password(NAMESPACE, role) in everything]


@pytest.fixture
async def on_secured(secured: EmbeddedServer, as_role: Roles) -> AsyncIterator[OnTheServer]:
    """A mesh that the operator has set up."""
    as_role.run("operator", "setup")
    async with connected(secured, NAMESPACE, "operator") as connection:
        view = OnTheServer(connection, Namespace(NAMESPACE))
        yield view
        await view.remove()


async def test_a_task_goes_from_producer_to_worker_with_locks_retries_children_and_dead_letters(
    as_role: Roles, on_secured: OnTheServer
) -> None:
    submitted = as_role.run("producer", "submit", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert not error_lines(submitted)
    as_role.run("producer", "submit", "lollygag:SyncOwnersTask", "--args", '["later"]', "--delay", "1")
    as_role.run("producer", "submit", "lollygag:Recovers", "--args", '["bob"]')
    as_role.run("producer", "submit", "lollygag:Submits", "--args", '["carol"]')
    as_role.run("producer", "submit", "lollygag:Dies", "--args", '["mice"]')
    worker = as_role.start("worker", "worker", "--worker-size", "small")
    waited = as_role.run("producer", "submit", "--wait", "lollygag:SyncOwnersTask", "--args", '["dave"]')
    assert waited.stdout.startswith("Result: ")
    (line,) = error_lines(waited)
    assert line.startswith("submitted lollygag:SyncOwnersTask as ")
    for role in ("producer", "operator", "observer"):
        assert as_role.run(role, "result", line.split()[-1]).stdout == waited.stdout
    for line in ("sync alice", "recovered bob", "sync carol", "sync later"):
        await as_role.command_line.wait_for_line(line)

    async def all_is_settled() -> bool:
        return await on_secured.waiting() == await on_secured.locks() == await on_secured.attempts() == 0

    await wait_until(all_is_settled, description="all is settled", timeout=30)
    as_role.end(worker)
    assert "ermission" not in as_role.written[-1]
    for role in ("operator", "observer"):
        (letter,) = json.loads(as_role.run(role, "dlq", "list", "--json").stdout)
        assert letter["task"] == "lollygag:Dies"
    as_role.run("observer", "dlq", "replay", str(letter["seq"]), code=69)
    assert await on_secured.waiting() == 0
    as_role.run("operator", "dlq", "replay", str(letter["seq"]))
    await wait_until(on_secured.waiting, description="it waits again", timeout=10)


async def test_a_scheduler_leads_and_supplies_with_its_own_user(as_role: Roles, on_secured: OnTheServer) -> None:
    scheduler = as_role.start("scheduler", "scheduler")

    async def supplied() -> bool:
        if scheduler.poll() is not None:
            raise AssertionError(scheduler.communicate())
        return await on_secured.count(on_secured.names.later_stream) > 0

    await wait_until(supplied, description="a state is written", timeout=30)
    for role in ("operator", "observer"):
        (listed,) = json.loads(as_role.run(role, "schedule", "list", "--json").stdout)
        assert listed["next"] is not None
    await check_that_both_are_seen(as_role, scheduler)
    as_role.end(scheduler)
    assert "is the leader" in as_role.written[-1]
    assert "ermission" not in as_role.written[-1]


async def check_that_both_are_seen(as_role: Roles, scheduler: subprocess.Popen[str]) -> None:
    """The operator and the observer see a worker and the leading scheduler."""
    worker = as_role.start("worker", "worker", "--worker-size", "large", "--log-level", "debug")
    for role in ("operator", "observer"):

        def both(role: str = role) -> bool:
            seen = json.loads(as_role.run(role, "status", "--json", "--log-level", "debug").stdout)
            workers = {each["pid"]: each["size"] for each in seen["workers"]}
            return workers == {worker.pid: "large"} and str(scheduler.pid) in str(seen["scheduler"]["leader"])

        await wait_until(both, description=f"{role} sees both", timeout=30)
        as_role.run(role, "status")
    host = socket.gethostname()
    connected_as = {f"diracx-worker/large/{host}/{worker.pid}", f"diracx-scheduler/{host}/{scheduler.pid}"}
    assert connected_as <= await names_of_connections(as_role.url)
    as_role.end(worker)


async def names_of_connections(url: str) -> set[str]:
    """The connection names that the server reports to its administrator."""
    client = await nats.connect(url, user="admin", password=password("sys", "admin"))
    answer = await client.request("$SYS.REQ.SERVER.PING.CONNZ", timeout=5)
    await client.close()
    return {each.get("name", "") for each in json.loads(answer.data)["data"]["connections"]}


async def test_a_worker_without_queues_says_who_creates_them(as_role: Roles) -> None:
    done = as_role.run("worker", "worker", "--worker-size", "small", "--burst", code=69)
    assert "let an operator run `diracx-task-run setup`" in done.stderr
    assert "Traceback" not in done.stderr
    done = as_role.run("producer", "submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', code=69)
    (line,) = error_lines(done)
    assert "create DIRACX_TASKS with `diracx-task-run setup`" in line


@pytest.mark.parametrize("role", [role for role in ROLES if role != "operator"])
def test_setup_without_permission_is_refused_in_one_line(as_role: Roles, role: str) -> None:
    (line,) = error_lines(as_role.run(role, "setup", code=69))
    assert line.startswith("error: no permission for ")


@pytest.fixture
async def objects(as_role: Roles, on_secured: OnTheServer) -> dict[str, dict[str, str]]:
    """Objects for each role to act on."""
    operator = on_secured.connection
    for _ in range(3 * len(ROLES)):
        headers = {"Task-Name": "lollygag:Dies"}
        await operator.request(f"{NAMESPACE}.tasks.normal.small", b'{"why": "mice"}', headers=headers)
    as_role.run("worker", "worker", "--worker-size", "small", "--burst")
    (file := as_role.command_line.folder / "configuration.yaml").write_text("vos: []\n")
    for text in (b"vos: [lhcb]", b"vos: [atlas]"):
        await operator.request(f"$KV.{NAMESPACE}_config.configuration", text)
    kept = ResultRecord(id="kept", status=Status.SUCCEEDED, value=1)
    await operator.request(f"$KV.{NAMESPACE}_results.kept", kept.encoded())
    letters = [str(letter["seq"]) for letter in json.loads(as_role.run("operator", "dlq", "list", "--json").stdout)]
    holder = {"owner": "o", "task": "t", "id": "i", "worker": "w", "since": "2026-05-04T09:30:12Z"}
    found = {}
    for number, role in enumerate(ROLES):
        shown, replayed, purged = letters[3 * number : 3 * number + 3]
        later, lock, queue = f"later-{role}", f"mutex.lollygag.held-{role}", QUEUES[number]
        schedule = {"Nats-Schedule": FAR, "Nats-Schedule-Target": f"{NAMESPACE}.due.normal.small"}
        await operator.request(f"{NAMESPACE}.delayed.{later}", b"{}", headers=schedule)
        await operator.request(f"$KV.{NAMESPACE}_locks.{lock}", json.dumps(holder).encode())
        pause = {"pause_until": "2099-01-01T00:00:00Z"}
        await operator.api(f"CONSUMER.PAUSE.{on_secured.names.tasks_stream}.{queue}", pause)
        values = {"role": role, "later": later, "lock": lock, "queue": queue, "file": str(file), "kept": "kept"}
        found[role] = values | {"shown": shown, "replayed": replayed, "purged": purged}
    return found


async def test_each_command_is_executed_or_refused_as_in_the_table(
    as_role: Roles, objects: dict[str, dict[str, str]]
) -> None:
    for role in ROLES:
        # Left out: what does not end, and `setup`, which has nothing to do here. Other tests cover them.
        endless = {name for name in ("scheduler", "dashboard") if role in ROLES_OF[name]}
        commands = [each for each in COMMANDS if each.name not in {"setup", *endless}]
        typed = [[*command.typed(objects[role]), "--log-level", "debug"] for command in commands]
        for command, done in zip(commands, as_role.run_each(role, typed), strict=True):
            allowed = role in command.roles
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert done.returncode == (0 if allowed else 69), f"{command.name} as {role}: {done}"
            assert len(errors) == (0 if allowed else 1), f"{command.name} as {role}: {done}"
            assert allowed or "no permission for " in errors[0]
            assert allowed or f" as user {NAMESPACE}-{role}, from DIRACX_TASKS_USER: " in errors[0]
            assert "Traceback" not in done.stderr


def test_every_command_that_connects_is_in_the_table() -> None:
    assert sorted(connecting(app)) == sorted(command.name for command in COMMANDS)
    wanted = table("`diracx-task-run ...`", ((f"`{each.name}`", each.roles) for each in COMMANDS))
    assert wanted in README.read_text(), f"put this into nats/README.md:\n{wanted}"


def connecting(group: click.Group, *path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        loaded = command.load() if isinstance(command, LazyCommand) else command
        if isinstance(loaded, click.Group):
            yield from connecting(loaded, *path, name)
        elif any("--nats-url" in parameter.opts for parameter in loaded.params):
            yield " ".join((*path, name))


def test_wrong_credentials_end_every_command_in_one_line_and_exit_69(as_role: Roles) -> None:
    (file := as_role.command_line.folder / "configuration.yaml").write_text("vos: []\n")
    values = dict.fromkeys(("shown", "replayed", "purged", "later", "lock", "role", "kept"), "1")
    values |= {"queue": QUEUES[0], "file": str(file)}
    typed = [[*command.typed(values), "--log-level", "debug"] for command in COMMANDS]
    for command, done in zip(COMMANDS, as_role.run_each("operator", typed, DIRACX_TASKS_PASSWORD="wr0ng"), strict=True):
        (line,) = error_lines(done)
        access = "user diracx-operator, from DIRACX_TASKS_USER"
        assert (
            line == f"error: cannot connect to {as_role.url}: authorization refused to {access}; check the credentials"
        )
        assert done.returncode == 69, command.name
        assert "wr0ng" not in done.stdout + done.stderr


def test_a_context_of_the_command_line_wins_over_the_variables_and_is_named(
    as_role: Roles, on_secured: OnTheServer, tmp_path: Path
) -> None:
    values = {"url": as_role.url, "user": "diracx-observer", "password": password(NAMESPACE, "observer")}
    place = {"XDG_CONFIG_HOME": str(tmp_path)}
    write_context("look", values, place)
    commands = [[*each, "--context", "look"] for each in (["locks", "list"], ["pause", "--all"], ["cancel", "1"])]
    listed, *forbidden = as_role.run_each("operator", commands, **place)
    assert listed.returncode == 0, listed.stderr
    for refused in forbidden:
        (line,) = error_lines(refused)
        assert " as user diracx-observer, from context look: grant it" in line
    values["password"] = "wr0ng"
    write_context("look", values, place)
    (refused,) = as_role.run_each("operator", commands[:1], **place)
    assert "authorization refused to user diracx-observer, from context look; check" in refused.stderr


def test_a_password_in_the_url_is_shown_nowhere(as_role: Roles) -> None:
    secret = password(NAMESPACE, "observer")
    user = user_name(Namespace(NAMESPACE), "observer")
    for host in (as_role.url.removeprefix("nats://"), "127.0.0.1:1"):
        done = as_role.run(
            "observer",
            *("setup", "--log-level", "debug"),
            code=69,
            DIRACX_TASKS_NATS_URL=f"nats://{user}:{secret}@{host}",
            DIRACX_TASKS_USER="",
            DIRACX_TASKS_PASSWORD="",
        )
        assert f"***@{host}" in done.stderr or "no permission" in done.stderr
