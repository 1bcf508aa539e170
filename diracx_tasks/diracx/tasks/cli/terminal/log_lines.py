"""The log of another process of ours, one JSON object a line, read again and shown to a person."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from rich.text import Text

_STYLES: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
_SHOWN: Final = frozenset({"time", "level", "logger", "message", "exception", "stack", "worker"})
"""What `LogLine` shows elsewhere or, as the worker, not at all."""


class LogLine(msgspec.Struct, frozen=True):
    """One line, as `logs.JsonFormatter` writes it."""

    time: datetime
    level: str
    logger: str
    message: str
    facts: dict[str, Any]
    story: str
    """A traceback, or nothing."""

    @classmethod
    def read(cls, line: str) -> LogLine | None:
        """Read it; None for what is no line of a log, such as what a task prints."""
        try:
            read = msgspec.json.decode(line, type=dict[str, Any])
            time = datetime.fromisoformat(read["time"])
            level, logger, message = (str(read[name]) for name in ("level", "logger", "message"))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, KeyError, TypeError, ValueError):
            return None
        story = "\n".join(str(read[name]) for name in ("exception", "stack") if name in read)
        facts = {name: value for name, value in read.items() if name not in _SHOWN}
        return cls(time, level, logger, message, facts, story)

    def shown(self) -> Text:
        """Local time, what is wrong, whose line it is if not ours, and what the message does not say itself."""
        known = {"task"} if str(self.facts.get("task")) in self.message else set()
        known |= {"attempt"} if self.facts.get("attempt") == 1 else set()
        told = " ".join(f"{name}={value}" for name, value in self.facts.items() if name not in known)
        style = _STYLES.get(self.level, "")
        ours = self.logger.startswith("diracx.tasks")
        return Text.assemble(
            (f"{self.time.astimezone():%T} ", "dim"),
            (f"{self.level.upper()} " if style else "", style),
            "" if ours else f"{self.logger}: ",
            self.message,
            (f" [{told}]" if told else "", "dim"),
            f"\n{self.story}" if self.story else "",
        )
