"""The log of a process on standard error: a line an event, as text or as JSON.

What a line is about goes with it: `task`, `id` and `attempt` of the delivery in whose course it was written, the
author's own lines included, and `worker`, the process. As text they follow the message; as JSON they are fields, and
so is whatever a call gives as `extra`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from diracx.tasks.cli.installed import packages_with_tasks
from diracx.tasks.plumbing.observability import log_context

FORMATS: Final = ("text", "json")

# What every record has; the rest came as `extra`.
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_process: dict[str, object] = {}


def start_logging(level: str, form: str) -> None:
    """Log to standard error from now on.

    Args:
        level: `debug`, `info`, `warning` or `error`. Libraries tell no more than at `info`: some write a line for each
            call in `debug`.
        form: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(_TEXT))
    debug = level.lower() == "debug"
    logging.basicConfig(level="INFO" if debug else level.upper(), handlers=[handler], force=True)
    for package in {"diracx", *packages_with_tasks()} if debug else ():
        logging.getLogger(package).setLevel("DEBUG")


def name_worker(name: str) -> None:
    """Say in every line from now on which worker or scheduler this process is."""
    _process["worker"] = name


def _facts(record: logging.LogRecord) -> dict[str, object]:
    extra = {name: value for name, value in vars(record).items() if name not in _PLAIN}
    return {**log_context.delivery_fields(), **_process, **extra}


class TextFormatter(logging.Formatter):
    """For people: the message, then ` [task=... id=... attempt=... worker=...]`; a traceback follows."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Make the line."""
        line = super().formatMessage(record).replace("\n", "\\n")
        facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
        return f"{line} [{facts}]" if facts else line


class JsonFormatter(logging.Formatter):
    """For machines: one object a line, a traceback in its field `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return _encode(line)


def _encode(line: Mapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        # Something in `extra` that JSON cannot hold must not cost the line.
        return msgspec.json.encode({name: _safe(value) for name, value in line.items()}).decode()


def _safe(value: object) -> object:
    return (
        value
        if value is None or isinstance(value, bool | int | float)
        else str(value).encode(errors="replace").decode()
    )
