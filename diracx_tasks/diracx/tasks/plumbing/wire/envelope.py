"""The headers of a task message: its name and id, its times, its parent and group, its labels, its trace.

The body contains the fields of the task and nothing else (see `fields`). So a message from any language is a task if it
has the header `Task-Name`; all other headers are optional.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import MalformedTaskError, shown
from diracx.tasks.plumbing.wire.times import from_rfc3339, to_rfc3339

FORMAT_VERSION: Final = 1
"""The version of the message format that is written, and the newest that a worker executes."""

TASK_NAME: Final = "Task-Name"
TASK_ID: Final = "Task-Id"
TASK_VERSION: Final = "Task-Version"
TASK_SUBMITTED: Final = "Task-Submitted"
TASK_DUE: Final = "Task-Due"
TASK_EXPIRES: Final = "Task-Expires"
TASK_PARENT: Final = "Task-Parent"
TASK_GROUP: Final = "Task-Group"
TASK_CALLBACK: Final = "Task-Callback"
TASK_PART: Final = "Task-Part"
TASK_KEEP_RESULT: Final = "Task-Keep-Result"
TASK_LABELS: Final = "Task-Labels"
TASK_MOVED: Final = "Task-Moved"
TRACEPARENT: Final = "traceparent"
MSG_ID: Final = "Nats-Msg-Id"

MAX_LABELS_BYTES: Final = 32_768
"""Half of the header bytes that JetStream stores in one message, so that a dead letter has room for its errors, too."""

DEAD_LETTER_BYTES: Final = 8_192
"""What the fields of a task leave free of the server's `max_payload`: room for the headers of its dead letter, without
which it would stay in its queue for ever. The longest is the reason, 1,000 characters of up to 4 bytes."""

_USUAL_BLOCK: Final = re.compile(
    (
        rf"NATS/1\.0\r\n{TASK_NAME}: ([!-~]+)\r\n{TASK_ID}: ([!-~]+)\r\n{TASK_VERSION}: {FORMAT_VERSION}\r\n"
        rf"{MSG_ID}: [!-~]+\r\n{TASK_SUBMITTED}: ([!-~]+Z)\r\n\r\n"
    ).encode()
)
"""The headers of a task without a delay, a group, labels and the like, as `to_headers` orders them."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""A traceparent (W3C Trace Context), also of a later version, with the id of its trace."""
_NO_LABELS: Final[dict[str, Any]] = {}
_labels_decoder = msgspec.json.Decoder(dict[str, Any])


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The headers of one task message. All times are aware."""

    name: str
    """`<category>:<ClassName>`. It is looked up in the registry, and never imported."""
    id: str
    """It stays the same through all retries. A message without an id gets its stream sequence."""
    version: int = FORMAT_VERSION
    submitted: datetime | None = None
    due: datetime | None = None
    """The time at which a delayed or periodic task is due."""
    expires: datetime | None = None
    """A task that is not done does not begin after this time: neither a first execution nor a retry."""
    parent: str | None = None
    """The id of the task that submitted this one."""
    group: str | None = None
    """The place of this task in a group, `<id of the group>:<index>`."""
    callback: str | None = None
    """The id of the group that this task follows."""
    keep_result: float | None = None
    """How long its result is kept, in seconds; None: as its class says."""
    labels: dict[str, Any] = msgspec.field(default_factory=dict)
    """Values of any JSON type, by name."""
    traceparent: str | None = None
    """The trace of the submitter (W3C Trace Context)."""
    moved: int = 0
    """How often the message was moved to the queue of another size."""

    def to_headers(self) -> dict[str, str]:
        """Return the headers for a publish. The server discards duplicates by `Nats-Msg-Id`, which is the task's id.

        Raises:
            ValueError: A time is naive.
            MalformedTaskError: A label would arrive as something else, or the labels are too large; the text names it.
        """
        headers = {TASK_NAME: self.name, TASK_ID: self.id, TASK_VERSION: str(self.version), MSG_ID: self.id}
        for header, moment in (
            (TASK_SUBMITTED, self.submitted),
            (TASK_DUE, self.due),
            (TASK_EXPIRES, self.expires),
        ):
            if moment is not None:
                headers[header] = to_rfc3339(moment)
        for header, text in (
            (TASK_PARENT, self.parent),
            (TASK_GROUP, self.group),
            (TASK_CALLBACK, self.callback),
            (TRACEPARENT, self.traceparent),
        ):
            if text is not None:
                headers[header] = text
        if self.keep_result is not None:
            headers[TASK_KEEP_RESULT] = f"{self.keep_result:.15g}"
        if self.moved:
            headers[TASK_MOVED] = str(self.moved)
        if self.labels:
            headers[TASK_LABELS] = _write_labels(self.labels)
        return headers

    @classmethod
    def of_usual_headers(cls, block: bytes) -> Envelope | None:
        """Read the headers that most tasks have, as `to_headers` makes them, at a third of the cost of `from_headers`.

        Args:
            block: The headers as they were sent, from `NATS/1.0` to the blank line.

        Returns:
            What `from_headers` returns for them; None: there are others, or they look different.
        """
        if (match := _USUAL_BLOCK.fullmatch(block)) is None:
            return None
        name, id_, submitted = match.groups()
        try:
            return cls(
                name=name.decode(),
                id=id_.decode(),
                submitted=datetime.fromisoformat(submitted.decode()),
                labels=_NO_LABELS,
            )
        except ValueError:
            return None

    @classmethod
    def from_headers(cls, headers: Mapping[str, str] | None, sequence: int) -> Envelope:
        """Parse the headers of a received message. Unknown headers are ignored.

        Args:
            headers: As received; None if the message has none.
            sequence: The stream sequence of the message, which becomes the id of a message without `Task-Id`.

        Raises:
            MalformedTaskError: `Task-Name` is missing, or a header does not parse; the text names the header.
        """
        if not headers or not (name := headers.get(TASK_NAME)):
            raise MalformedTaskError(f"the header {TASK_NAME} is missing")
        return cls(
            name=name,
            id=headers.get(TASK_ID) or str(sequence),
            version=_number(headers, TASK_VERSION) if TASK_VERSION in headers else FORMAT_VERSION,
            submitted=_time(headers, TASK_SUBMITTED),
            due=_time(headers, TASK_DUE) if TASK_DUE in headers else None,
            expires=_time(headers, TASK_EXPIRES) if TASK_EXPIRES in headers else None,
            parent=headers.get(TASK_PARENT),
            group=headers.get(TASK_GROUP),
            callback=headers.get(TASK_CALLBACK),
            keep_result=_seconds(headers, TASK_KEEP_RESULT) if TASK_KEEP_RESULT in headers else None,
            labels=read_labels(headers) if TASK_LABELS in headers else _NO_LABELS,
            traceparent=headers.get(TRACEPARENT),
            moved=_number(headers, TASK_MOVED) if TASK_MOVED in headers else 0,
        )


def trace_id_of(headers: Mapping[str, str]) -> str | None:
    """The id of the trace to which a task belongs, 32 hexadecimal digits; None: it tells none."""
    trace = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, ""))
    return None if trace is None else trace[1]


def _number(headers: Mapping[str, str], header: str) -> int:
    try:
        return int(headers[header])
    except ValueError:
        raise MalformedTaskError(f"{header}: {shown(headers[header])!r} is no number") from None


def _seconds(headers: Mapping[str, str], header: str) -> float:
    try:
        seconds = float(headers[header])
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise MalformedTaskError(f"{header}: {shown(headers[header])!r} is no number of seconds above 0")
    return seconds


def _time(headers: Mapping[str, str], header: str) -> datetime | None:
    if (text := headers.get(header)) is None:
        return None
    try:
        return from_rfc3339(text)
    except ValueError as error:
        raise MalformedTaskError(f"{header}: {shown(str(error))}") from None


def _write_labels(labels: dict[str, Any]) -> str:
    text = _label_text(labels)
    if text is None:
        name, value = next((name, value) for name, value in labels.items() if _label_text({name: value}) is None)
        raise MalformedTaskError(
            f"the label {shown(repr(name))} is {_described(value)}, which JSON does not carry unchanged; use None, "
            "bool, int, float (finite), str, or a list or dict of these, with str as keys"
        )
    if len(text) > MAX_LABELS_BYTES:
        name = max(labels, key=lambda each: len(_label_text({each: labels[each]}) or ""))
        raise MalformedTaskError(
            f"the labels have {len(text)} bytes as JSON, at most {MAX_LABELS_BYTES} travel with a task; the largest is "
            f"{shown(repr(name))}: make it a field of the task, or store it elsewhere"
        )
    return text


def _label_text(labels: dict[str, Any]) -> str | None:
    """The labels as JSON; None if they would not be read as what they are."""
    try:
        text = msgspec.json.encode(labels)
        read = _labels_decoder.decode(text)
        if read != labels:
            return None
        # ASCII only: some client libraries lose all headers if one is not.
        return text.decode() if text.isascii() else json.dumps(read, separators=(",", ":"))
    except Exception:  # e.g. what the time zone of a datetime, or the == of an author's class, raises
        return None


def _described(value: object) -> str:
    try:
        return shown(f"{type(value).__name__} {' '.join(repr(value).split())}")
    except Exception:  # the repr of a value may raise anything
        return f"a {type(value).__name__}"


def read_labels(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the labels in the headers of a message that has some.

    Raises:
        MalformedTaskError: They are no JSON object.
    """
    try:
        return _labels_decoder.decode(headers[TASK_LABELS])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedTaskError(f"{TASK_LABELS}: {error}") from None
