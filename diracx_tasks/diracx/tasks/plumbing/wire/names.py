"""The names of subjects, streams, consumers, buckets and keys, and the escaping of free text in them.

Every name starts with the namespace, so that two namespaces on one server never meet.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import shown

_NAMESPACE = re.compile(r"[a-z][a-z0-9_]*")
# The stream `KV_<namespace>_attempts` is a directory of the server, and every reply subject holds the namespace.
_MAX_NAMESPACE_CHARS = 64
# The accounts of a mesh are `<NAMESPACE>`, `<NAMESPACE>_PRODUCERS` and `<NAMESPACE>_OBSERVERS`, beside SYS.
_OTHER_ACCOUNT = re.compile(r"sys|.*_(producers|observers)")

# Of the characters that PyPA recommends for entry points, those of ASCII: some clients lose all headers if one is not.
_TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*:[A-Za-z_][A-Za-z0-9_.-]*")
MAX_TASK_NAME_CHARS = 200
"""Longer names would be cut in logs, and stand as a digest in subjects."""

_LOCK_KIND = re.compile(r"[A-Za-z0-9_-]{1,50}").fullmatch
MAX_LOCK_KEY_CHARS = 3_000
"""The longest key of a lock.

The server closes the connection at a control line of more than 4,096 bytes. The line holds the subject
`$KV.<namespace>_locks.<key>`, where `./vo.<VO>` and `./slots.<number>` may follow, and the reply subject.
"""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")

_ALL_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}").fullmatch

# NATS limits a control line, which holds the whole subject, to 4 KiB. A longer part is replaced by its digest.
_MAX_PART_CHARS = 200
_LONG_PART_HEAD_CHARS = 100


def escape(part: str) -> str:
    """Escape one part of a subject or key, one to one, into the characters `A-Z a-z 0-9 _ - =`.

    Each other byte of the UTF-8 text becomes `=XX` (upper-case hexadecimal). The empty text becomes `=`. A result of
    more than 200 characters keeps its first 100, followed by `=h` and the SHA-256 of the text. Two different texts
    never give the same part. Only the digest form cannot be reversed.
    """
    if _ALL_PLAIN(part):
        return part
    raw = part.encode("utf-8", "surrogatepass")
    escaped = "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in raw)
    if not escaped:
        return "="
    if len(escaped) <= _MAX_PART_CHARS:
        return escaped
    return f"{escaped[:_LONG_PART_HEAD_CHARS]}=h{hashlib.sha256(raw).hexdigest()}"


def lock_key(kind: str, *parts: object) -> str:
    """Return the key of a lock: `kind` and the escaped parts, joined by dots. A number and its text are one part.

    Raises:
        ValueError: `kind` is not 1 to 50 letters, digits, `_` and `-`; a part has no text of its own (see `_text_of`);
            or the key has more than `MAX_LOCK_KEY_CHARS`. The text says what to write.
    """
    if not _LOCK_KIND(kind):
        raise ValueError(f"the kind {kind!r} of a lock must be 1 to 50 ASCII letters, digits, underscores and dashes")
    key = ".".join([kind, *[escape(str(part) if type(part) is int else _text_of(part)) for part in parts]])
    if len(key) > MAX_LOCK_KEY_CHARS:
        raise ValueError(
            f"the key of a lock, {key[:80]}..., has {len(key)} characters, at most {MAX_LOCK_KEY_CHARS} are allowed: "
            "give it fewer or shorter parts, e.g. a digest of them"
        )
    return key


def _text_of(part: object) -> str:
    """The text of one part of a key.

    None is mostly an id that is not set, the text of bytes is Python code, that of a collection may change with the
    order of its elements, and that of an object without a `__str__` is its address: such locks exclude too much, or
    nothing.
    """
    if isinstance(part, str):
        return str(part)
    kind = type(part)
    if part is None:
        raise ValueError("a part of a lock's key is None, which all objects without an id would share; write its id")
    if isinstance(part, bytes | bytearray | memoryview):
        raise ValueError(f"a part of a lock's key is {kind.__name__}; write text, e.g. part.decode() or part.hex()")
    if isinstance(part, list | tuple | dict | set | frozenset):
        raise ValueError(f"a part of a lock's key is a {kind.__name__}; write each element as a part, e.g. *parts")
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        raise ValueError(
            f"a part of a lock's key is a {kind.__name__}, whose text differs in each process; write its id"
        )
    return str(part)


def split_task_name(name: str) -> tuple[str, str]:
    """Split `<category>:<ClassName>`; the category of a name without a colon is empty."""
    category, _, class_name = name.rpartition(":")
    return category, class_name


def check_task_name(name: str) -> None:
    """Check the name of a task, `<category>:<ClassName>`: a header, tokens of subjects, and what operators type.

    Raises:
        ValueError: The name has another form; the text says why.
    """
    if len(name) > MAX_TASK_NAME_CHARS:
        raise ValueError(f"it has {len(name)} characters, at most {MAX_TASK_NAME_CHARS} are allowed")
    if not _TASK_NAME.fullmatch(name):
        raise ValueError(
            "write <category>:<ClassName> in ASCII letters, digits, `_`, `.` and `-`; "
            "the class begins with a letter or `_`"
        )


def check_vo(name: str) -> None:
    """Check the name of a VO: a key of the configuration, and a word that operators type.

    Raises:
        ValueError: The name is empty, or has a character that cannot be printed.
    """
    if not name:
        raise ValueError("the name of a VO is empty")
    if not name.isprintable():
        raise ValueError(f"the name {shown(name)!r} has a character that cannot be printed")


def escape_entry(entry: str) -> str:
    """Escape the name of an entry of a periodic task. The result differs from each result of `escape`."""
    return f"+{escape(entry)}"


def _instance_tokens(task_name: str, vo: str | None, entry: str) -> str:
    category, class_name = split_task_name(task_name)
    tokens = [escape(part) for part in (category, class_name, vo) if part is not None]
    return ".".join([*tokens, escape_entry(entry)] if entry else tokens)


@dataclass(frozen=True, slots=True)
class Namespace:
    """All names of one mesh: its producers, workers and schedulers around one JetStream.

    Args:
        name: Lower case, `[a-z][a-z0-9_]*`, at most 64 characters. `sys`, and names that end in `_producers` or
            `_observers`, are taken by accounts.

    Raises:
        ValueError: The name has another form, is longer, or is taken.
    """

    name: str = "diracx"

    def __post_init__(self) -> None:
        named = f"namespace {self.name[:_MAX_NAMESPACE_CHARS]!r}"
        if not _NAMESPACE.fullmatch(self.name):
            raise ValueError(f"{named} must be lower case letters, digits and underscores, and start with a letter")
        if len(self.name) > _MAX_NAMESPACE_CHARS:
            raise ValueError(f"{named} has {len(self.name)} characters, at most {_MAX_NAMESPACE_CHARS} are allowed")
        if _OTHER_ACCOUNT.fullmatch(self.name):
            raise ValueError(
                f"{named} would share its account on the server with another; choose a name other than sys that does "
                "not end in _producers or _observers"
            )

    # Streams
    @property
    def tasks_stream(self) -> str:
        """The work queue: tasks that are due."""
        return f"{self.name.upper()}_TASKS"

    @property
    def later_stream(self) -> str:
        """Delayed and periodic tasks that the server publishes when they fall due, and the state of schedules."""
        return f"{self.name.upper()}_LATER"

    @property
    def dead_letters_stream(self) -> str:
        """Tasks that will not run again, and the advisories of the work queue."""
        return f"{self.name.upper()}_DLQ"

    @property
    def history_stream(self) -> str:
        """A sample of the mesh for each minute. The mesh works without it."""
        return f"{self.name.upper()}_HISTORY"

    # Consumers
    @staticmethod
    def consumer(priority: Priority, size: Size) -> str:
        """The durable pull consumer of one queue."""
        return f"{priority}-{size}"

    # Subjects
    def task_subject(self, priority: Priority, size: Size) -> str:
        """The subject of one queue: the tasks of one priority and size."""
        return f"{self.name}.tasks.{priority}.{size}"

    def due_subject(self, priority: Priority, size: Size) -> str:
        """The subject to which the server publishes tasks that fall due. The work queue sources it."""
        return f"{self.name}.due.{priority}.{size}"

    def delayed_subject(self, task_id: str) -> str:
        """The subject of the schedule of one delayed task."""
        return f"{self.name}.delayed.{escape(task_id)}"

    def state_subject(self, task_name: str, vo: str | None = None, entry: str = "") -> str:
        """The subject of the state of one periodic task, of its instance for one VO, or of one entry of either."""
        return f"{self.name}.state.{_instance_tokens(task_name, vo, entry)}"

    def periodic_subject(self, task_name: str, vo: str | None, occurrence: str, entry: str = "") -> str:
        """The subject of the schedule of one occurrence. `occurrence` is unique within the instance or entry."""
        return f"{self.name}.periodic.{_instance_tokens(task_name, vo, entry)}.{escape(occurrence)}"

    def group_subject(self, group: str) -> str:
        """The subject of the record of one group. Those of its parts and outcomes begin with it and a dot."""
        return f"{self.name}.group.{escape(group)}"

    def group_part_subject(self, group: str, part: int) -> str:
        """The subject of the record of one part of a group: its children, and what has become of them."""
        return f"{self.group_subject(group)}.part.{part}"

    def group_outcomes_subject(self, group: str, part: int, first: int | str) -> str:
        """The subject of outcomes of one part, stored together; `first` is the lowest index among them, or `*`."""
        return f"{self.group_subject(group)}.outcomes.{part}.{first}"

    def kept_subject(self, task_id: str) -> str:
        """The subject to which the bucket of results republishes the result of a task, once it is stored."""
        return f"{self.name}.kept.{escape(task_id)}"

    def cancelled_subject(self, kind: str, key: str) -> str:
        """The subject of the note that an operator has cancelled tasks.

        Args:
            kind: `id`, `task` or `group`.
            key: The id of a task, the name of tasks, or the id of a group.
        """
        return f"{self.name}.cancelled.{kind}.{escape(key)}"

    @property
    def all_cancelled(self) -> str:
        """The subjects of all such notes."""
        return f"{self.name}.cancelled.*.*"

    def dead_letter_subject(self, task_name: str, sequence: int) -> str:
        """The subject that stores the dead letter of one message, once, by the stream sequence of the message."""
        category, class_name = split_task_name(task_name)
        return f"{self.name}.dlq.{escape(category)}.{escape(class_name)}.{sequence}"

    def queue_of(self, subject: str) -> tuple[Priority, Size] | None:
        """Return the queue with this `task_subject`; None for any other subject."""
        queues = ((priority, size) for priority in Priority for size in Size)
        return next((queue for queue in queues if self.task_subject(*queue) == subject), None)

    def replay_subject(self, dead_letter: int | str, microseconds: int | str) -> str:
        """The subject of the note that a dead letter was published to its queue again.

        Args:
            dead_letter: The sequence of the dead letter in its stream.
            microseconds: The time at which it was stored, since the epoch. A stream that was deleted and created again
                has the same sequences at other times.
        """
        return f"{self.name}.state.replay.{dead_letter}.{microseconds}"

    def replayed(self, subject: str) -> int | None:
        """The sequence of the dead letter whose `replay_subject` this is; None for any other subject.

        The state of a task in a category `replay` is none: it has no numbers.
        """
        found = re.fullmatch(re.escape(self.replay_subject("", "")[:-1]) + r"(\d+)\.\d+", subject)
        return None if found is None else int(found[1])

    @property
    def history_subject(self) -> str:
        """The subject of the samples, one a minute."""
        return f"{self.name}.history.minute"

    @property
    def imported_api(self) -> str:
        """The prefix of the JetStream API where an account imports it, as those of producers and observers do."""
        return f"{self.name.upper()}.API"

    def inbox_prefix(self, role: str) -> str:
        """The prefix of the reply subjects of one role, so that permissions can keep roles apart."""
        return f"_INBOX_{self.name}_{role}"

    # Buckets
    @property
    def locks_bucket(self) -> str:
        """The holders of locks, by the key of the lock."""
        return f"{self.name}_locks"

    @property
    def attempts_bucket(self) -> str:
        """The attempt records of messages, by stream sequence."""
        return f"{self.name}_attempts"

    @property
    def results_bucket(self) -> str:
        """The stored results of tasks."""
        return f"{self.name}_results"

    @property
    def config_bucket(self) -> str:
        """The configuration that workers and schedulers follow."""
        return f"{self.name}_config"
