"""The JSON log of another process, as `dev` reads and shows it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import time
from typing import Any

import pytest

from diracx.tasks.cli.logs import JsonFormatter, LogLine, TextFormatter
from diracx.tasks.plumbing.observability.log_context import JSON_FIELDS, current_delivery


def written(message: str, level: int = logging.INFO, logger: str = "diracx.tasks.worker", **fields: object) -> str:
    record = logging.LogRecord(logger, level, __file__, 1, message, None, None)
    vars(record).update(fields)
    return JsonFormatter().format(record)


def shown(line: str) -> str:
    read = LogLine.read(line)
    assert read is not None
    clock, _, text = str(read).partition(" ")
    assert time.fromisoformat(clock)
    return text


def test_a_line_shows_its_message_and_the_fields_that_the_message_lacks() -> None:
    fields: dict[str, Any] = {"task": "acme:Sync", "id": "0192", "attempt": 1, "worker": "node-1-small"}
    assert shown(written("done: acme:Sync (message 1)", **fields)) == "done: acme:Sync (message 1) [id=0192]"
    fields["attempt"] = 2
    assert shown(written("owners: 7", **fields)) == "owners: 7 [task=acme:Sync id=0192 attempt=2]"
    assert shown(written("connected")) == "connected"


def test_the_details_of_a_delivery_are_in_json_only() -> None:
    fields: dict[str, Any] = {JSON_FIELDS: {"duration": 0.5}, "site": "RAL"}
    token = current_delivery.set(lambda details: {"task": "acme:Sync"} | ({"queue": "normal-small"} if details else {}))
    try:
        line = written("done", **fields)
        record = logging.makeLogRecord({"msg": "done", "name": "acme", "levelname": "INFO", **fields})
        text = TextFormatter("%(message)s").format(record)
    finally:
        current_delivery.reset(token)
    read = json.loads(line)
    assert list(read)[4:] == ["task", "queue", "duration", "site"]
    assert read["duration"] == 0.5
    assert text == "done [task=acme:Sync site=RAL]"
    assert shown(line) == "done [task=acme:Sync site=RAL]"


def test_warnings_and_errors_show_their_level_and_other_loggers_their_name() -> None:
    assert shown(written("dead", logging.ERROR)) == "ERROR dead"
    assert shown(written("slow", logging.WARNING, "sqlalchemy.pool")) == "WARNING sqlalchemy.pool: slow"


def test_a_traceback_follows_the_line() -> None:
    try:
        raise ValueError("no owner")
    except ValueError:
        record = logging.LogRecord("acme", logging.ERROR, __file__, 1, "failed", None, sys.exc_info())
    first, *traceback = shown(JsonFormatter().format(record)).splitlines()
    assert first == "ERROR acme: failed"
    assert (traceback[0], traceback[-1]) == ("Traceback (most recent call last):", "ValueError: no owner")


def test_a_traceback_that_is_a_text_follows_the_line_as_well() -> None:
    assert shown(written("dead", logging.ERROR, exc_text="Traceback: here")) == "ERROR dead\nTraceback: here"


@pytest.mark.parametrize(
    "line",
    ["", "error: no server", "{", "[]", "1", '{"time": 1}', '{"time": "x", "level": "", "logger": "", "message": ""}'],
)
def test_other_text_is_not_read_as_a_log_line(line: str) -> None:
    assert LogLine.read(line) is None
