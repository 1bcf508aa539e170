"""`task ID`: where a task is, and why it does not run."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import msgspec

from diracx.tasks.plumbing.groups.records import GroupRecord, PartRecord
from diracx.tasks.plumbing.operations.accounts import user_name
from diracx.tasks.plumbing.wire.envelope import TASK_ID, TASK_NAME
from diracx.tasks.plumbing.wire.names import Namespace
from support.command_line import CommandLine, OnTheServer
from support.pages import OPERATORS, blocks
from support.secured import connected, password, secured_server

AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
FIELDS = (
    "id state why status until task queue sequence place args labels submitted due expires attempts errors running "
    "locks parent group index callback_of cancelled dead_letter result groups "
    "trace_id replayed deliveries past"
)


async def stored_by_hand(on_the_server: OnTheServer) -> tuple[str, ...]:
    """Store results, and a group; return their ids, and that of a child."""
    names, connection = on_the_server.names, on_the_server.connection
    for task_id, result in (("good", '"value":[1]'), ("big", '"problem":"too large"'), ("bad", "")):
        status = "succeeded" if result else "failed"
        body = f'{{"status":"{status}"{result and ","}{result}}}'
        await connection.request(f"$KV.{names.results_bucket}.{task_id}", body.encode())
    record = GroupRecord(spawned=AT, ttl_seconds=60, children=2, starts=(0,), callback="lollygag:Waits")
    part = PartRecord(tasks=("lollygag:Waits",), queues=("normal.small",), children=(0, 0), statuses="s.")
    await connection.request(names.group_subject("gid"), msgspec.json.encode(record))
    await connection.request(names.group_part_subject("gid", 0), msgspec.json.encode(part))
    return ("gid", "good", "big", "bad", "gid-0")


async def test_a_task_that_runs_one_that_waits_and_an_unknown_one_are_shown(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    worker = with_server.start("worker", "--worker-size", "small", "--max-concurrent-tasks", "1")
    submitted = with_server.each([["submit", "lollygag:Waits", "--args", f'["{name}"]'] for name in ("a", "b")])
    runs, waits = (done.stdout.strip() for done in submitted)
    await with_server.wait_for_line("begin a")
    ids = (runs, *await stored_by_hand(on_the_server))
    running, waiting, unknown, empty, *texts = with_server.each(
        [["task", runs, "--json"], ["task", waits, "--json"], ["task", "?*"], ["task", ""]]
        + [["task", each] for each in ids]
    )
    text, *others = texts
    assert [done.returncode for done in others] == [0] * 5
    ends = ("gid: 2 children (1 waiting, 1 succeeded), then lollygag:Waits", "[", "too large", "failed", "succeeded")
    for done, end in zip(others, ends, strict=True):
        assert re.search(rf"^(groups|result) +{re.escape(end)}", done.stdout, re.MULTILINE), done.stdout
    document = json.loads(running.stdout)
    assert (running.returncode, running.stderr, " ".join(document)) == (0, "", FIELDS)
    (only,) = document["running"]
    assert " ".join(only) == "worker since attempt state cancelled_since cancelled_for blocked_at"
    assert (document["state"], document["task"], document["args"]) == ("running", "lollygag:Waits", {"name": "a"})
    assert (document["queue"], only["state"]) == ("normal-small", "executing")
    assert f"-{worker.pid}-small" in only["worker"]
    lines = text.stdout.splitlines()
    assert lines[:2] == [f"id         {runs}", "state      running"]
    assert f"why        {only['worker']} has it since " in text.stdout
    assert "task       lollygag:Waits" in lines
    assert not [line for line in lines if line.startswith(("errors", "result", "labels"))], "only what it has"
    document = json.loads(waiting.stdout)
    assert (document["state"], document["place"]) == ("waiting", 1)
    assert document["why"][0] == "all slots of size small are in use: 1 in 1 worker"
    assert (unknown.returncode, unknown.stderr) == (1, "")
    assert unknown.stdout.startswith("id         ?*\nstate      unknown\nwhy        nothing of this id is stored: ")
    assert (empty.returncode, empty.stdout) == (2, "")
    for name in ("a", "b"):
        with_server.release(name)


async def test_the_example_of_the_page_is_what_the_command_prints(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    example = next(block for block in blocks(OPERATORS) if block.commands and " task " in block.commands[0])
    command, _, shown = example.text.removeprefix("$ diracx-task-run ").partition("\n")
    task_id = command.split()[1]
    await on_the_server.set_up()
    for each in ("first", "second", task_id):
        headers = {TASK_NAME: "lollygag:SyncOwnersTask", TASK_ID: each}
        subject = f"{on_the_server.names.name}.tasks.normal.small"
        await on_the_server.connection.request(subject, b'{"owner_name":"alice"}', headers=headers)
    done = with_server(*command.split())
    submitted = re.compile(r"^(submitted +).*$", re.MULTILINE)
    assert submitted.sub(r"\1", done.stdout) == submitted.sub(r"\1", shown)


async def test_an_observer_reads_all_places(extension: CommandLine, namespace: str) -> None:
    names = Namespace(namespace)
    with secured_server(namespace) as server:
        async with connected(server, namespace, "operator") as connection:
            await OnTheServer(connection, names).set_up()
            for number in range(600):
                headers = {TASK_NAME: "lollygag:Waits", TASK_ID: f"id-{number}"}
                await connection.request(f"{namespace}.tasks.normal.small", b'{"name": "a"}', headers=headers)
        extension.environment["DIRACX_TASKS_NATS_URL"] = server.url
        observer = {
            "DIRACX_TASKS_USER": user_name(names, "observer"),
            "DIRACX_TASKS_PASSWORD": password(namespace, "observer"),
        }
        found, unknown = extension.each([["task", each, "--json"] for each in ("id-599", "unknown")], **observer)
    document = json.loads(found.stdout)
    assert (found.returncode, document["state"], document["place"]) == (0, "waiting", 600)
    assert document["why"][0].startswith("no worker of size small answers: ")
    assert (unknown.returncode, json.loads(unknown.stdout)["state"]) == (1, "unknown")
