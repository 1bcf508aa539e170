"""Each role does its work on the server of `nats/`, as a process with the least that it is granted."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from command_line import CommandLine, OnTheServer
from diracx.tasks.plumbing.accounts import user_name
from diracx.tasks.plumbing.embedded import EmbeddedServer
from diracx.tasks.plumbing.permissions import observer_api
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from secured import ROLES, connected, password, secured_server

NAMESPACE = "diracx"


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(NAMESPACE) as server:
        yield server


@dataclasses.dataclass
class Roles:
    """The console script as each role, and all that it wrote."""

    command_line: CommandLine
    url: str
    written: list[str] = dataclasses.field(default_factory=list)

    def environment(self, role: str) -> dict[str, str]:
        return {
            "DIRACX_TASKS_NATS_URL": self.url,
            "DIRACX_TASKS_NAMESPACE": NAMESPACE,
            "DIRACX_TASKS_USER": user_name(Namespace(NAMESPACE), role),
            "DIRACX_TASKS_PASSWORD": password(NAMESPACE, role),
            "DIRACX_TASKS_API_PREFIX": observer_api(Namespace(NAMESPACE)) if role == "observer" else "",
        }

    def run(self, role: str, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = self.command_line(*arguments, **(self.environment(role) | environment))
        self.written += [done.stdout, done.stderr]
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        return done

    def start(self, role: str, *arguments: str) -> subprocess.Popen[str]:
        return self.command_line.start(*arguments, **self.environment(role))

    def end(self, process: subprocess.Popen[str]) -> None:
        process.terminate()
        self.written += process.communicate(timeout=30)
        assert process.returncode == 0, self.written[-1]


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Standard error without what the extension's broken tasks cause, and without `debug`."""
    noise = ("warning: lollygag:", ": lollygag:", "not served: lollygag:", " DEBUG ")
    return [line for line in done.stderr.splitlines() if not any(each in line for each in noise)]


@pytest.fixture
def as_role(extension: CommandLine, secured: EmbeddedServer) -> Iterator[Roles]:
    extension.environment = {
        name: value for name, value in extension.environment.items() if not name.startswith("DIRACX_TASKS_")
    }
    roles = Roles(extension, secured.url)
    yield roles
    # Whatever went wrong or right: no output shows a secret.
    everything = "\n".join(roles.written)
    assert not [role for role in ROLES if password(NAMESPACE, role) in everything]


@pytest.fixture
async def on_secured(secured: EmbeddedServer, as_role: Roles) -> AsyncIterator[OnTheServer]:
    """A mesh that the operator made."""
    as_role.run("operator", "setup")
    async with connected(secured, NAMESPACE, "operator") as connection:
        view = OnTheServer(connection, Namespace(NAMESPACE))
        yield view
        await view.remove()


async def test_a_task_goes_from_producer_to_worker_with_locks_retries_children_and_dead_letters(
    as_role: Roles, on_secured: OnTheServer
) -> None:
    submitted = as_role.run("producer", "submit", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    assert not told(submitted)
    as_role.run("producer", "submit", "lollygag:SyncOwnersTask", "--args", '["later"]', "--delay", "1")
    as_role.run("producer", "submit", "lollygag:Recovers", "--args", '["bob"]')
    as_role.run("producer", "submit", "lollygag:Submits", "--args", '["carol"]')
    as_role.run("producer", "submit", "lollygag:Dies", "--args", '["mice"]')
    worker = as_role.start("worker", "worker", "--worker-size", "small")
    for line in ("sync alice", "recovered bob", "sync carol", "sync later"):
        await as_role.command_line.noted(line)

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
    as_role.end(scheduler)
    assert "leads" in as_role.written[-1]
    assert "ermission" not in as_role.written[-1]


async def test_a_worker_whose_queues_are_missing_says_who_has_to_create_them(as_role: Roles) -> None:
    done = as_role.run("worker", "worker", "--worker-size", "small", "--burst", code=69)
    assert "let an operator run `diracx-task-run setup`" in done.stderr
    assert "Traceback" not in done.stderr
    done = as_role.run("producer", "submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', code=69)
    (line,) = told(done)
    assert "create DIRACX_TASKS with `diracx-task-run setup`" in line


@pytest.mark.parametrize("role", ["producer", "observer", "worker"])
def test_who_may_not_create_is_refused_in_one_line(as_role: Roles, role: str) -> None:
    (line,) = told(as_role.run(role, "setup", code=69))
    assert line.startswith("error: no permission for ")


@pytest.mark.parametrize(
    "arguments",
    [("worker", "--worker-size", "small", "--log-level", "debug"), ("scheduler", "--log-level", "debug"), ("setup",)],
    ids=["worker", "scheduler", "setup"],
)
def test_wrong_credentials_end_in_one_line_and_exit_69(as_role: Roles, arguments: tuple[str, ...]) -> None:
    done = as_role.run("worker", *arguments, code=69, DIRACX_TASKS_PASSWORD="wr0ng")
    (line,) = told(done)
    assert line == f"error: cannot connect to {as_role.url}: authorization refused; check the credentials"
    assert "wr0ng" not in done.stdout + done.stderr


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
