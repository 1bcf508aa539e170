"""`history`: what the leading scheduler has kept."""

from __future__ import annotations

import json

import msgspec

from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample
from support.command_line import CommandLine, OnTheServer

FIELDS = (
    "start seconds submitted succeeded retried dead dropped cancelled wait_p50 wait_p95 waiting in_flight parked "
    "delayed dead_letters workers slots busy leader"
)


async def test_the_history_is_a_table_and_a_document(with_server: CommandLine, on_the_server: OnTheServer) -> None:
    (none,) = with_server.each([["history"]])
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "no history is kept: create its stream with `diracx-task-run setup`\n"
    await on_the_server.set_up()
    names, connection = on_the_server.names, on_the_server.connection
    queues = {"normal-small": QueueSample(waiting=3, submitted=600, succeeded=300)}
    sample = Sample(connection.clock.now(), 60.0, queues, 0, 0, {}, leader=True)
    await connection.request(names.history_subject, msgspec.json.encode(sample))
    table, document, other, many, wrong = with_server.each(
        [
            ["history"],
            ["history", "--since", "10m", "--step", "1h", "--json"],
            ["history", "--queue", "normal-large", "--json"],
            ["history", "--since", "30d", "--step", "60"],
            ["history", "--queue", "normal-huge"],
        ]
    )
    header, line = table.stdout.splitlines()
    assert header.split()[:3] == ["from", "in/min", "done/min"]
    assert line.split()[1:3] == ["600.0", "300.0"]
    (row,) = json.loads(document.stdout)
    assert " ".join(row) == FIELDS
    assert (row["submitted"], row["waiting"], row["leader"]) == (600, 3, True)
    assert json.loads(other.stdout)[0]["submitted"] == 0
    assert (many.returncode, many.stderr) == (0, "")
    assert (wrong.returncode, wrong.stdout) == (2, "")
