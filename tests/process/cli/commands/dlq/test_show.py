"""`dlq show`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from diracx.tasks.plumbing.wire.failure import Failure
from support.command_line import CommandLine
from support.dead_letters import HEADERS, DeadLetterBox

NAME = HEADERS["Task-Name"]
AT = datetime(2026, 12, 1, 6, tzinfo=UTC)


async def test_show_prints_all_errors_at_80_columns(with_server: CommandLine, box: DeadLetterBox) -> None:
    traceback = 'Traceback (most recent call last):\n  File "tasks.py", line 3, in execute\n    raise ValueError\n'
    failures = (
        Failure("ValueError", "no owner " * 20, traceback, "host-1-small", AT),
        Failure("OSError", "\x1b[31mred\x07", "", "host-2-small", AT),
    )
    labels = json.dumps({"vo": "lhcb", "n": [1, None, "ü"], "größe": "x " * 60})
    await box.add(b'{"owner_name":"alice","tags":[1,2]}', HEADERS | {"Task-Labels": labels}, failures=failures)
    done = with_server("dlq", "show", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for line in (
        "seq        1",
        f"task       {NAME}",
        "id         abc",
        "attempts   1",
        "reason     over",
        "labels     vo=lhcb",
        '           n=[1, null, "ü"]',
        '             "owner_name": "alice",',
        "error 1 of 2, 2026-12-01T06:00:00.000Z, host-1-small",
        '  File "tasks.py", line 3, in execute',
        "error 2 of 2, 2026-12-01T06:00:00.000Z, host-2-small",
        r"OSError: \x1b[31mred\x07",
    ):
        assert line in lines
    assert [with_server.json("dlq", "show", "1")] == with_server.json("dlq", "list")


async def test_showing_an_unknown_sequence_is_bad_usage(with_server: CommandLine, box: DeadLetterBox) -> None:
    done = with_server("dlq", "show", "7")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no dead letter 7; see `diracx-task-run dlq list`")
