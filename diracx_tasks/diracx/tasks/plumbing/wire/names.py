"""The names of subjects, streams, consumers, buckets and keys, and how foreign text is escaped in them.

Every name starts with the namespace, so that two namespaces on one server never meet.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from diracx.tasks.plumbing.enums import Priority, Size

_NAMESPACE = re.compile(r"[a-z][a-z0-9_]*")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")

_ALL_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}").fullmatch

# NATS gives a whole control line 4 KiB; a part beyond this is named by its digest instead.
_LONGEST_PART = 200
_HEAD_OF_LONG_PART = 100


def escape(part: str) -> str:
    """Escape one part of a subject or key, one to one, into `A-Z a-z 0-9 _ - =`.

    Each other byte of the UTF-8 text becomes `=XX` (upper-case hexadecimal); the empty text becomes `=`. A part
    that would exceed 200 characters keeps its head, followed by `=h` and the SHA-256 of the whole: no two
    different texts meet, but such a part can no longer be read back.
    """
    if _ALL_PLAIN(part):
        return part
    raw = part.encode("utf-8", "surrogatepass")
    escaped = "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in raw)
    if not escaped:
        return "="
    if len(escaped) <= _LONGEST_PART:
        return escaped
    return f"{escaped[:_HEAD_OF_LONG_PART]}=h{hashlib.sha256(raw).hexdigest()}"


def unescape(part: str) -> str:
    """Read back what `escape` made; what was too long for it, or is not of its making, comes back as it stands."""
    if part == "=":
        return ""
    raw = unquote_to_bytes(part.replace("=", "%"))
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return part
    return text if escape(text) == part else part


def lock_key(kind: str, *parts: object) -> str:
    """The key of a lock: `kind` and the escaped parts, joined by dots."""
    return ".".join((kind, *(escape(str(part)) for part in parts)))


def split_task_name(name: str) -> tuple[str, str]:
    """Split `<category>:<ClassName>`; the category of a name without a colon is empty."""
    category, _, class_name = name.rpartition(":")
    return category, class_name


def _instance(task_name: str, vo: str | None) -> str:
    category, class_name = split_task_name(task_name)
    return ".".join(map(escape, (category, class_name) if vo is None else (category, class_name, vo)))


@dataclass(frozen=True, slots=True)
class Namespace:
    """All names of one mesh.

    Args:
        name: Lower case, `[a-z][a-z0-9_]*`.

    Raises:
        ValueError: The name has another form.
    """

    name: str = "diracx"

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.name):
            raise ValueError(
                f"namespace {self.name!r} must be lower case letters, digits and underscores, and start with a letter"
            )

    # Streams
    @property
    def tasks_stream(self) -> str:
        """The work queue: what is to run now."""
        return f"{self.name.upper()}_TASKS"

    @property
    def later_stream(self) -> str:
        """What the server holds until it falls due."""
        return f"{self.name.upper()}_LATER"

    @property
    def dead_letters_stream(self) -> str:
        """What will not run again."""
        return f"{self.name.upper()}_DLQ"

    # Consumers
    @staticmethod
    def consumer(priority: Priority, size: Size) -> str:
        """The durable pull consumer of one priority and size."""
        return f"{priority}-{size}"

    # Subjects
    def task_subject(self, priority: Priority, size: Size) -> str:
        """Where tasks of one priority and size wait."""
        return f"{self.name}.tasks.{priority}.{size}"

    def due_subject(self, priority: Priority, size: Size) -> str:
        """Where the server publishes what has fallen due; the work queue sources it."""
        return f"{self.name}.due.{priority}.{size}"

    def delayed_subject(self, task_id: str) -> str:
        """The schedule of one delayed task."""
        return f"{self.name}.delayed.{escape(task_id)}"

    def state_subject(self, task_name: str, vo: str | None = None) -> str:
        """The state of one periodic task, or of its instance for one VO."""
        return f"{self.name}.state.{_instance(task_name, vo)}"

    def periodic_subject(self, task_name: str, vo: str | None, occurrence: str) -> str:
        """The schedule of one occurrence of a periodic task; `occurrence` is unique within the instance."""
        return f"{self.name}.periodic.{_instance(task_name, vo)}.{escape(occurrence)}"

    def dead_letter_subject(self, task_name: str, sequence: int) -> str:
        """Where the dead letter of one message is stored, once."""
        category, class_name = split_task_name(task_name)
        return f"{self.name}.dlq.{escape(category)}.{escape(class_name)}.{sequence}"

    def queue_of(self, subject: str) -> tuple[Priority, Size] | None:
        """The queue whose `task_subject` this is; None for any other subject."""
        queues = ((priority, size) for priority in Priority for size in Size)
        return next((queue for queue in queues if self.task_subject(*queue) == subject), None)

    def replay_subject(self, dead_letter: int | str, microseconds: int | str) -> str:
        """Where it is noted that a dead letter was put back into its queue.

        Args:
            dead_letter: Its sequence in its stream.
            microseconds: When it was stored there, since the epoch: tells it from one in a stream made anew.
        """
        return f"{self.name}.state.replay.{dead_letter}.{microseconds}"

    def is_replay(self, subject: str) -> bool:
        """Whether this is such a note; the state of a task of category `replay` is none: a class is no number."""
        return re.fullmatch(re.escape(self.replay_subject("", "")[:-1]) + r"\d+\.\d+", subject) is not None

    def inbox_prefix(self, role: str) -> str:
        """Where replies to one role arrive, so that permissions can keep roles apart."""
        return f"_INBOX_{self.name}_{role}"

    # Buckets
    @property
    def locks_bucket(self) -> str:
        """Who holds which lock."""
        return f"{self.name}_locks"

    @property
    def attempts_bucket(self) -> str:
        """What has been tried of a message, by stream sequence."""
        return f"{self.name}_attempts"

    @property
    def results_bucket(self) -> str:
        """Results that somebody asked to keep."""
        return f"{self.name}_results"

    @property
    def groups_bucket(self) -> str:
        """Groups of tasks with a callback."""
        return f"{self.name}_groups"

    @property
    def config_bucket(self) -> str:
        """The configuration that workers and schedulers follow."""
        return f"{self.name}_config"
