"""Workers that die, lose their server or their time under healthy tasks, and records that would grow without end."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.connecting import connect
from support.misbehaving_tasks import Seat, Workplace, install
from support.processes import LoggedProcess
from support.queues import set_ack_wait
from support.tcp_proxy import TcpProxy

ACK_WAIT = 1.5
OUTAGES = 3
SMALL_PAYLOADS = "max_payload: 65536"
MISSED = 3


@pytest.fixture
async def unruly(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare, server.url)
    await on_the_server.set_up()
    return bare


@pytest.mark.one_server("a client whose connection is cut goes to another server")
@pytest.mark.parametrize("size", Size)
async def test_outages_longer_than_a_lease_under_healthy_tasks_are_no_crashes(
    unruly: CommandLine, on_the_server: OnTheServer, server: EmbeddedServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT, [size])
    names = [f"release neighbour {number}" for number in range(3)]
    async with TcpProxy(server.url) as wire:
        unruly.environment["DIRACX_TASKS_NATS_URL"] = wire.url
        worker = workplace.worker("--max-concurrent-tasks", "6")
        await workplace.neighbours(*names)
        for outage in range(1, OUTAGES + 1):
            await wire.cut(1.5 * ACK_WAIT, silently=False)
            # All of them run again, beside each other: none of them ends before its file exists.
            for name in names:
                await unruly.wait_for_line(f"begin {name}", outage + 1)
        unruly.release("release")
        await workplace.settled()
        assert await worker.stop() == 0
    unruly.environment["DIRACX_TASKS_NATS_URL"] = server.url
    for name in names:
        assert unruly.journal().count(f"end {name}") == 1
    assert not workplace.dead_letters()
    assert "isolat" not in worker.log
    assert await on_the_server.attempts() == 0


@pytest.mark.parametrize("size", Size)
async def test_a_task_that_ends_its_process_is_a_dead_letter_and_its_neighbours_get_done(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT, [size])
    names = [f"neighbour {number}" for number in range(6)]
    unruly.release("neighbour")
    for name in names[:3]:
        await workplace.submit("Neighbour", name, {"name": name})
    await workplace.submit("Unruly", "ends its process", {"act": "ends_its_process"})
    for name in names[3:]:
        await workplace.submit("Neighbour", name, {"name": name})
    seat = Seat(workplace, "--max-concurrent-tasks", "10", "--log-level", "error")
    await seat.settled(seconds=90)
    letters = workplace.dead_letters()
    assert list(letters) == ["ends its process"]
    assert letters["ends its process"]["reason"].startswith("poison: 5 executions began and never ended")
    executions = unruly.journal().count("begin ends its process")
    assert executions == len(seat.ended) in (5, 6), "a first delivery is not counted"
    assert {f"end {name}" for name in names} <= set(unruly.journal())


async def test_of_the_occurrences_that_a_long_run_has_held_up_only_the_one_that_is_due_runs(
    unruly: CommandLine, on_the_server: OnTheServer
) -> None:
    workplace = Workplace(unruly, on_the_server, Size.SMALL)
    worker = workplace.worker("--lock-retry-delay", "0.2")
    scheduler = LoggedProcess(unruly, "scheduler", MISBEHAVING_SIZE="small")
    await unruly.wait_for_line("begin periodic")

    def dropped() -> list[str]:
        return [line for line in worker.log.splitlines() if "dropped misbehaving:Periodic" in line]

    async def missed() -> bool:
        # The first still runs. The others wait behind its lock, or have given way to the next already. The latter are
        # counted first, since one that gave way in between would count twice.
        given_way = len(dropped())
        return await on_the_server.waiting() - 1 + given_way >= MISSED

    await wait_until(missed, description=f"{MISSED} occurrences fell due behind the first", timeout=60)
    unruly.release("release")
    # The first run and the occurrence that is due; another may fall due meanwhile.
    await unruly.wait_for_line("end periodic", 2)
    await workplace.settled()
    # A message is settled first, and its line is written then.
    await wait_until(lambda: len(dropped()) >= MISSED - 1, description=f"{MISSED - 1} are told to be dropped")
    assert all("expired" in line for line in dropped())
    assert unruly.journal().count("begin periodic") <= 3
    assert (await scheduler.stop(), await worker.stop()) == (0, 0)


@pytest.mark.parametrize(
    ("configuration", "times", "characters", "depth"),
    [("", 26, 20_000, 0), (SMALL_PAYLOADS, 7, 100, 9)],
    ids=["long messages", "long tracebacks and small payloads"],
)
async def test_a_task_that_fails_often_and_at_length_keeps_its_count_and_becomes_a_dead_letter(
    bare: CommandLine, namespace: str, configuration: str, times: int, characters: int, depth: int
) -> None:
    with EmbeddedServer(extra_config=configuration) as server:
        install(bare, server.url)
        assert bare("setup").returncode == 0
        async with connect(server) as connection:
            workplace = Workplace(bare, OnTheServer(connection, Namespace(namespace)), Size.SMALL)
            worker = workplace.worker()
            body = {"times": times, "characters": characters, "depth": depth}
            await workplace.submit("FailsAtLength", "at length", body)
            await workplace.settled()
            assert await worker.stop() == 0
        (letter,) = workplace.dead_letters().values()
    assert letter["attempts"] == times
    assert letter["errors"]
    assert {error["type"] for error in letter["errors"]} == {"ValueError"}
    assert letter["errors"][-1]["traceback"]
    assert "unsettled" not in worker.log


async def test_a_name_of_three_kilobytes_is_cut_wherever_it_is_shown(
    unruly: CommandLine, on_the_server: OnTheServer
) -> None:
    workplace = Workplace(unruly, on_the_server, Size.SMALL)
    subject = on_the_server.names.task_subject(Priority.NORMAL, Size.SMALL)
    name, body = "x" * 3000, b"{}"
    await publish(on_the_server.connection, subject, body, {"Task-Name": f"misbehaving:{name}", "Task-Id": name[1:]})
    malformed = {
        "Task-Name": f"misbehaving:{name}",
        "Task-Id": name[2:],
        "Task-Version": "1",
        "Task-Submitted": "never",
    }
    await publish(on_the_server.connection, subject, body, malformed)
    worker = workplace.worker("--log-level", "debug")
    await workplace.settled(1)
    await worker.logs("unknown task")
    shown = unruly("dlq", "list")
    assert shown.returncode == 0
    assert await worker.stop() == 0
    assert "x" * 100 in worker.log
    longest = max(len(line) for line in (*worker.log.splitlines(), *shown.stdout.splitlines()))
    assert longest < 1500, "a name, an id and a name in an error at most"
    assert "x" * 300 not in worker.log + shown.stdout
