"""The record of one result: the JSON in the bucket `results`, under the escaped id of its task.

    {"id": "0192...", "task": "lollygag:SyncOwnersTask", "status": "succeeded", "value": 1, "error": null,
     "ended": "2026-11-26T12:00:00Z", "worker": "host-7-small", "problem": null}

A value is any JSON value, and arrives unchanged: `1`, `1.0` and `true` stay apart, and integers have any size. Of other
Python values the JSON arrives that msgspec writes of them, e.g. a datetime as RFC 3339 text, and a dataclass as an
object. A value that JSON cannot carry is not kept: then `value` is null, and `problem` says why.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import ResultIsMissingError, TaskFailedError
from diracx.tasks.plumbing.wire.difference import non_finite, unwritable
from diracx.tasks.plumbing.wire.ending import Ending, Status
from diracx.tasks.plumbing.wire.exact_json import one_line

RETURN_LESS: Final = "return less, or store the data elsewhere and return where it is"


class RemoteError(msgspec.Struct, frozen=True):
    """Why a task has not succeeded."""

    type: str
    """The class of the exception, with its module unless it is built in."""
    message: str = ""
    traceback: str = ""
    """As text; empty if there is none."""


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a task has ended, and what it returned."""

    id: str
    task: str = ""
    """Its name, `<category>:<ClassName>`."""
    status: Status
    value: Any = None
    """What `execute()` returned, as JSON has it."""
    error: RemoteError | None = None
    """None: it has succeeded."""
    ended: datetime | None = None
    """By the server's clock."""
    worker: str = ""
    problem: str | None = None
    """Why the value of a task that has succeeded is not here, and what to do; None: it is here."""

    @classmethod
    def of(cls, ending: Ending, worker: str, ended: datetime) -> ResultRecord:
        """The record of a task that has just ended; its value is JSON already."""
        value, problem = None, None
        if ending.status is Status.SUCCEEDED:
            try:
                value = msgspec.Raw(value_json(ending.value))
            except ValueError as error:
                problem = str(error)
        failure = ending.error
        return cls(
            id=ending.id,
            task=ending.task,
            status=ending.status,
            value=value,
            error=None if failure is None else RemoteError(failure.type, failure.message, failure.traceback),
            ended=ended,
            worker=worker,
            problem=problem,
        )

    @classmethod
    def parse(cls, body: bytes) -> ResultRecord:
        """Read a stored record. Fields that are not known are ignored.

        Raises:
            ValueError: It is no record.
        """
        try:
            return _decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(one_line(error)) from None

    def encoded(self) -> bytes:
        """The JSON to store."""
        return msgspec.json.encode(self)

    def without_value(self, problem: str) -> ResultRecord:
        """The same without what makes it large: its value, for this reason, or its traceback."""
        if self.error is None:
            return msgspec.structs.replace(self, value=None, problem=problem)
        return msgspec.structs.replace(self, error=msgspec.structs.replace(self.error, traceback=""))

    def returned(self) -> Any:
        """What `execute()` returned.

        Raises:
            TaskFailedError: It has not returned: the task failed for good, expired, or was cancelled.
            ResultIsMissingError: It could not be kept.
        """
        if self.status is not Status.SUCCEEDED:
            error = self.error or RemoteError("unknown")
            raise TaskFailedError(self.id, self.task, self.status, error.type, error.message, error.traceback)
        if self.problem is not None:
            raise ResultIsMissingError(
                self.id, f"{self.task} has succeeded, but its value was not kept: {self.problem}"
            )
        return self.value


_decoder: Final = msgspec.json.Decoder(ResultRecord)


def value_json(value: object) -> bytes:
    """The JSON of a value that a task returned.

    Raises:
        ValueError: JSON does not carry it; the text says what in it, and what to do.
    """
    try:
        text = _write(value)
        read = msgspec.json.decode(text)
        # msgspec writes a number that JSON lacks as null, and two keys with one text, such as 1 and "1", as they come.
        found = non_finite(value) if b"null" in text else None
    except RecursionError:
        raise ValueError("it is nested too deeply or contains itself (recursion); return it flat") from None
    except BaseException as error:  # whatever the code of an author raises; the task has succeeded all the same
        raise ValueError(_why_not(value, error)) from None
    if found is not None:
        raise ValueError(f"the value at {found}")
    if msgspec.json.encode(read) != text:
        json.loads(text, object_pairs_hook=_refuse_lost_keys, parse_int=float)
    return text


def _write(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """A pydantic model as JSON has it: msgspec does not know those."""
    if hasattr(type(value), "__pydantic_validator__"):
        return value.model_dump(mode="json")
    raise TypeError(f"JSON has no {type(value).__name__} there")


def _why_not(value: object, error: BaseException) -> str:
    try:
        where = unwritable(value, _write)
    except BaseException:  # a value may refuse even to be looked at
        where = f"$, a {type(value).__name__},"
    return f"the value at {where} cannot be written as JSON: {one_line(error)}; return text, numbers, lists or dicts"


def _refuse_lost_keys(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"two of its keys are {key!r} as JSON, whose keys are texts; return keys that differ")
        seen.add(key)
