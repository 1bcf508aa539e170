"""The log of a process on standard error, one line an event, as text or as JSON; and reading its JSON again.

Each line names its subject: the fields `task`, `id` and `attempt` of the delivery in which it was logged (lines of the
task's author included), and `worker`, the process. A text line appends them to the message. A JSON line has them as
fields, like everything that a log call passes as `extra`. It also has `queue`, `trace_id` and `labels` of the delivery,
and where a delivery ended its `duration` in seconds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from diracx.tasks.cli.installed import packages_with_tasks
from diracx.tasks.cli.own_log import OwnLog
from diracx.tasks.cli.terminal.json_text import printable_json
from diracx.tasks.cli.terminal.printable import one_line, printable
from diracx.tasks.plumbing.observability import log_context
from diracx.tasks.plumbing.wire.failure import message_of

# Attributes that every record has. All others were passed as `extra`.
_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# The names of a JSON line that `LogLine` keeps elsewhere, and those for which a line of text has no room; `dev` shows
# the worker beside the line.
_NOT_A_FIELD: Final = frozenset({"time", "level", "logger", "message", "exception", "stack", "worker"}) | {
    *("queue", "trace_id", "labels", "duration")
}
_ALARMING_LEVELS: Final = ("warning", "error", "critical")

_process: dict[str, object] = {}


def start_logging(level: str, form: str) -> None:
    """Log to standard error from now on.

    Args:
        level: `debug`, `info`, `warning` or `error`. At `debug`, libraries still log at `info`: some write a line for
            each call. DiracX and packages with tasks log at `debug`.
        form: `text` or `json`.
    """
    own_level = logging.getLevelNamesMapping()[level.upper()]
    OwnLog(
        JsonFormatter(sys.stderr.encoding) if form == "json" else TextFormatter(_TEXT),
        level=max(own_level, logging.INFO),
        own_level=own_level,
        packages=packages_with_tasks,
    ).start()


def name_worker(name: str) -> None:
    """Add the id of this worker or scheduler to every line from now on."""
    _process["worker"] = name


def _fields(record: logging.LogRecord, details: bool = False) -> dict[str, object]:
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}
    more: Any = extra.pop(log_context.JSON_FIELDS, {})
    fields = {**log_context.delivery_fields(), **_process}
    if details:
        fields |= {**log_context.delivery_fields(details=True), **more}
    return {**fields, **extra}


class TextFormatter(logging.Formatter):
    """Writes lines for people: the message, then ` [task=... id=... attempt=... worker=...]`, then any traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line."""
        line = one_line(super().formatMessage(record))
        fields = " ".join(f"{name}={one_line(message_of(value))}" for name, value in _fields(record).items())
        return f"{line} [{fields}]" if fields else line

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the lines of a traceback."""
        return printable(super().format(record))


class JsonFormatter(logging.Formatter):
    """Writes lines for machines: one JSON object each, with any traceback in the field `exception`.

    Args:
        encoding: That of the stream. JSON has its own escapes for what it lacks.
    """

    def __init__(self, encoding: str | None = None) -> None:
        super().__init__()
        self._encoding = encoding

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record, details=True),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # the traceback of a task, as its failure keeps it
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return self._encode(line)

    def _encode(self, line: Mapping[str, Any]) -> str:
        try:
            return printable_json(line, self._encoding)
        except Exception:  # a value in `extra` is the author's, and must not lose the line
            return printable_json({name: _safe(value) for name, value in line.items()}, self._encoding)


def _safe(value: object) -> object:
    plain = value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63)
    return value if plain else message_of(value)


class LogLine(msgspec.Struct, frozen=True):
    """One line of another process's log, as `JsonFormatter` wrote it."""

    time: datetime
    level: str
    logger: str
    message: str
    fields: dict[str, Any]
    """`task`, `id`, `attempt` and `extra`; without `worker`."""
    traceback: str
    """The traceback and the stack, or an empty text."""

    @classmethod
    def read(cls, line: str) -> LogLine | None:
        """Read a line; return None for anything else, such as text that a task prints."""
        try:
            read = msgspec.json.decode(line, type=dict[str, Any])
            time = datetime.fromisoformat(read["time"])
            level, logger, message = (str(read[name]) for name in ("level", "logger", "message"))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, KeyError, TypeError, ValueError):
            return None
        traceback = "\n".join(str(read[name]) for name in ("exception", "stack") if name in read)
        fields = {name: value for name, value in read.items() if name not in _NOT_A_FIELD}
        return cls(time, level, logger, message, fields, traceback)

    def __str__(self) -> str:
        """The line for people: the local time, warnings and errors by their level, and fields that are news."""
        known = {"task"} if str(self.fields.get("task")) in self.message else set()
        known |= {"attempt"} if self.fields.get("attempt") == 1 else set()
        fields = " ".join(f"{name}={value}" for name, value in self.fields.items() if name not in known)
        return "".join(
            [
                f"{self.time.astimezone():%T} ",
                f"{self.level.upper()} " if self.level in _ALARMING_LEVELS else "",
                "" if self.logger.startswith("diracx.tasks") else f"{self.logger}: ",
                self.message,
                f" [{fields}]" if fields else "",
                f"\n{self.traceback}" if self.traceback else "",
            ]
        )
