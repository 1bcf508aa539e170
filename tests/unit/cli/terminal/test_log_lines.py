"""A log of another process, as `dev` shows it: written as JSON by one formatter, read by the other."""

from __future__ import annotations

import logging
import sys
from datetime import time
from typing import Any

import pytest

from diracx.tasks.cli.logs import JsonFormatter
from diracx.tasks.cli.terminal.log_lines import LogLine


def written(message: str, level: int = logging.INFO, logger: str = "diracx.tasks.worker", **facts: object) -> str:
    record = logging.LogRecord(logger, level, __file__, 1, message, None, None)
    vars(record).update(facts)
    return JsonFormatter().format(record)


def shown(line: str) -> str:
    read = LogLine.read(line)
    assert read is not None
    clock, _, text = read.shown().plain.partition(" ")
    assert time.fromisoformat(clock)
    return text


def test_a_line_of_ours_is_its_message_and_what_that_does_not_say() -> None:
    facts: dict[str, Any] = {"task": "acme:Sync", "id": "0192", "attempt": 1, "worker": "node-1-small"}
    assert shown(written("done: acme:Sync (message 1)", **facts)) == "done: acme:Sync (message 1) [id=0192]"
    facts["attempt"] = 2
    assert shown(written("owners: 7", **facts)) == "owners: 7 [task=acme:Sync id=0192 attempt=2]"
    assert shown(written("connected")) == "connected"


def test_what_is_wrong_is_told_by_its_level_and_another_logger_by_its_name() -> None:
    assert shown(written("dead", logging.ERROR)) == "ERROR dead"
    assert shown(written("slow", logging.WARNING, "sqlalchemy.pool")) == "WARNING sqlalchemy.pool: slow"


def test_a_traceback_follows() -> None:
    try:
        raise ValueError("no owner")
    except ValueError:
        record = logging.LogRecord("acme", logging.ERROR, __file__, 1, "failed", None, sys.exc_info())
    first, *story = shown(JsonFormatter().format(record)).splitlines()
    assert first == "ERROR acme: failed"
    assert (story[0], story[-1]) == ("Traceback (most recent call last):", "ValueError: no owner")


@pytest.mark.parametrize(
    "line",
    ["", "error: no server", "{", "[]", "1", '{"time": 1}', '{"time": "x", "level": "", "logger": "", "message": ""}'],
)
def test_what_is_no_line_of_a_log_is_not_taken_for_one(line: str) -> None:
    assert LogLine.read(line) is None
