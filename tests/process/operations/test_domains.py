"""A mesh in another JetStream domain, reached over a leaf node: all works under the prefix of that domain's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.nats_contexts import write_context
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.processes import LoggedProcess, free_port

HUB = """
server_name: hub
jetstream {{ store_dir: {store}, domain: hub }}
leafnodes {{ listen: "127.0.0.1:{port}" }}
"""
LEAF = """
server_name: leaf
jetstream {{ store_dir: {store}, domain: leaf }}
leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}
"""


@pytest.fixture
def leaf(tmp_path: Path) -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """A hub, and a leaf node with a JetStream of its own."""
    port = free_port()

    def configuration(text: str, name: str) -> str:
        return text.format(store=json.dumps(str(tmp_path / name)), port=port)

    with (
        EmbeddedServer(extra_config=configuration(HUB, "hub")) as hub,
        EmbeddedServer(extra_config=configuration(LEAF, "leaf")) as leaf,
    ):
        yield hub, leaf


async def test_each_command_works_in_the_domain_that_a_context_or_a_variable_names(
    leaf: tuple[EmbeddedServer, EmbeddedServer], extension: CommandLine
) -> None:
    hub, near = leaf
    extension.environment |= {"DIRACX_TASKS_NATS_URL": near.url, "DIRACX_TASKS_JS_DOMAIN": "hub"}
    names = Namespace(extension.environment["DIRACX_TASKS_NAMESPACE"])
    write_context("far", {"url": near.url, "jetstream_domain": "hub"}, extension.environment)
    (file := extension.folder / "configuration.yaml").write_text("vos: [lhcb]\n")
    async with Connection.open(
        ConnectionSettings(servers=(hub.url,)), name="a test", inbox_prefix="_INBOX_test"
    ) as connection:
        on_hub = OnTheServer(connection, names)
        # The leaf needs a moment to connect, and until then nobody answers for the hub.
        await wait_until(lambda: extension("setup").returncode == 0, description="the hub is reached", timeout=30)
        run(
            extension,
            ["submit", "lollygag:SyncOwnersTask", "--args", '["alice"]', "--context", "far"],
            ["submit", "lollygag:Recovers", "--args", '["bob"]'],
            ["submit", "lollygag:Dies", "--args", '["mice"]'],
            ["submit", "lollygag:SyncOwnersTask", "--args", '["later"]', "--delay", "1"],
            ["config", "set", str(file)],
            ["pause", "normal-large", "--for", "1h"],
            ["resume", "normal-large"],
            ["call", "lollygag:SyncOwnersTask", "--args", '["here"]'],
        )
        assert await on_hub.waiting() in (3, 4)  # and perhaps the later one
        worker = LoggedProcess(extension, "worker", "--worker-size", "small")
        scheduler = LoggedProcess(extension, "scheduler", "--context", "far")
        for line in ("sync alice", "recovered bob", "sync later"):
            await extension.wait_for_line(line)
        await scheduler.logs("is the leader")
        await settled(on_hub)
        check_that_all_is_seen(extension, worker, scheduler)
        (letter,) = json.loads(run(extension, ["dlq", "list", "--json"])[0])
        run(extension, ["dlq", "replay", str(letter["seq"])])
        await settled(on_hub)
        assert await worker.stop() == await scheduler.stop() == 0
        for log in (worker.log, scheduler.log):
            assert "ermission" not in log


async def settled(on_hub: OnTheServer) -> None:
    """Wait until no task waits, and no attempt is recorded."""

    async def all_is_settled() -> bool:
        return await on_hub.waiting() == await on_hub.attempts() == 0

    await wait_until(all_is_settled, description="all is settled", timeout=30)


def check_that_all_is_seen(extension: CommandLine, worker: LoggedProcess, scheduler: LoggedProcess) -> None:
    """The commands that look see the worker, the leading scheduler, the dead letter and the configuration."""
    seen, letters, locks, schedules, shown = map(
        json.loads,
        run(
            extension,
            *(["status", "--json"], ["dlq", "list", "--json"], ["locks", "list", "--json"]),
            *(["schedule", "list", "--json"], ["config", "show", "--json"]),
        ),
    )
    assert [each["pid"] for each in seen["workers"]] == [worker.pid]
    assert str(scheduler.pid) in seen["scheduler"]["leader"]
    assert [each["task"] for each in letters] == ["lollygag:Dies"]
    assert [each["key"] for each in locks] == ["leader.task.scheduler"]
    assert schedules
    assert shown["text"] == "vos: [lhcb]\n"


def run(extension: CommandLine, *commands: list[str]) -> list[str]:
    """Run commands that must succeed; return what they print."""
    done = extension.each(commands)
    assert not [each for each in done if each.returncode], done
    return [each.stdout for each in done]
