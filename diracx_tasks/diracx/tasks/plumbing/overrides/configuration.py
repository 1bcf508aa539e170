"""The configuration of a mesh as values: which settings of tasks it overrides, and the limits that it sets.

Two layouts of the file give the same values. Each limit knows the path at which it is written, for operators.

A limit belongs to a task, or to an object that limiters in the code lock:

    a task      at most so many executions of the task, whatever it locks
    an object   at most so many owners of each limiter on `(type, key, *extra)`; the most specific place counts:
                the key with the most of the limiter's extra parts, down to the key alone, then `default` likewise

A limit for one VO wins over the one for all VOs, and counts the tasks of that VO apart from those of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import TaskError
from diracx.tasks.plumbing.locks.rate import MAX_WINDOW_SECONDS
from diracx.tasks.plumbing.schedules import TaskScheduleBase

DEFAULT: Final = "default"
"""In place of the key of an object: every key that has no limit of its own."""


class ConfigurationError(TaskError):
    """The configuration is invalid. The text names the path of the bad key or value."""


class LimitKind(StrEnum):
    """What a limit bounds; the name of its key in the file."""

    RATE = "rate_limit"
    CONCURRENCY = "concurrency_limit"


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` in any window of `window_seconds`."""

    limit: int
    window_seconds: float

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError("`limit` must be 1 or more")
        if not 0 < self.window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(f"`window_seconds` must be more than 0, and {MAX_WINDOW_SECONDS} at the most")


class Limit(msgspec.Struct, frozen=True):
    """One limit that was found in the configuration."""

    kind: LimitKind
    value: RateLimit | int
    """A `RateLimit` for `RATE`, the number of owners for `CONCURRENCY`."""
    vo: str
    """The VO whose tasks it counts apart; empty: it counts the tasks of all VOs together."""
    path: str
    """Where it is written, e.g. `limits.Transformation.default`."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One of several schedules of a periodic task, with arguments of its own. None: as for the task."""

    args: Mapping[str, Any] = {}
    """The values of fields, by name. A VO-aware task gets its VO besides."""
    enabled: bool | None = None
    schedule: TaskScheduleBase | None = None
    path: str = ""
    """Where it is written."""


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """The settings for one task, or for one VO of it; None: not set."""

    enabled: bool | None = None
    schedule: TaskScheduleBase | None = None
    rate_limit: RateLimit | None = None
    concurrency_limit: int | None = None
    entries: Mapping[str, Entry] | None = None
    """By name. The name of an entry without one is empty. None: the task has its one schedule, without arguments."""
    path: str = ""
    """Where it is written."""
    limits_path: str = ""
    """Where its limits are written; empty: at `path`."""
    periodic_path: str = ""
    """Where settings are written that only a periodic task can have; empty: the schedule and the entries show it."""

    def enables(self, entry: Entry, by_default: bool) -> bool:
        """Whether an entry of the task is scheduled: `false` wins, at the task or at the entry.

        Args:
            by_default: What the code says, see `PeriodicBaseTask._enabled`.
        """
        if False in (entry.enabled, self.enabled):
            return False
        return bool(entry.enabled or self.enabled or by_default)

    def over(self, other: Override) -> Override:
        """These settings, completed by those of `other` that are not set here. Entries are not merged."""
        return Override(
            enabled=other.enabled if self.enabled is None else self.enabled,
            schedule=other.schedule if self.schedule is None else self.schedule,
            rate_limit=other.rate_limit if self.rate_limit is None else self.rate_limit,
            concurrency_limit=other.concurrency_limit if self.concurrency_limit is None else self.concurrency_limit,
            entries=other.entries if self.entries is None else self.entries,
            path=self.path or other.path,
            limits_path=(self if self.limited else other).limits_at,
            periodic_path=self.periodic_path or other.periodic_path,
        )

    @property
    def schedules(self) -> Mapping[str, Entry]:
        """What a periodic task runs by, by name: its entries, or its one schedule without a name."""
        return _ONE_SCHEDULE if self.entries is None else self.entries

    @property
    def limited(self) -> bool:
        """Whether it sets a limit."""
        return self.rate_limit is not None or self.concurrency_limit is not None

    @property
    def limits_at(self) -> str:
        """Where its limits are written. `Configuration.task_limit` knows it for each kind."""
        return self.limits_path or self.path


class ObjectLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits for one place of a type of locked objects; None: not set."""

    rate_limit: RateLimit | None = None
    concurrency_limit: int | None = None
    path: str = ""
    """Where they are written."""


_NO_OVERRIDE: Final = Override()
_ONE_SCHEDULE: Final[Mapping[str, Entry]] = MappingProxyType({"": Entry()})


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed configuration."""

    vos: tuple[str, ...] | None = None
    """The virtual organisations; None: not set."""
    tasks: Mapping[str, Override] = {}
    """By task name, `<category>:<ClassName>`, or by the name of the class alone."""
    task_vos: Mapping[tuple[str, str], Override] = {}
    """By task name, likewise, and VO."""
    objects: Mapping[tuple[str, ...], ObjectLimits] = {}
    """By VO (empty: all), `type_name` of the locked type, key or `DEFAULT`, and extra parts."""

    @property
    def paths_of_tasks(self) -> dict[str, str]:
        """Where each task is written, by the name that it has there; for all VOs, if it is written there as well."""
        paths = {task: override.path for (task, _), override in self.task_vos.items()}
        return paths | {task: override.path for task, override in self.tasks.items()}

    def override(self, task: str, vo: str | None = None) -> Override:
        """The settings for a task, or for one VO of it.

        Args:
            task: `<category>:<ClassName>`.
            vo: None or empty: no VO.
        """
        common = self._of_task(task)
        return self._of_vo(task, vo).over(common) if vo else common

    def task_limit(self, kind: LimitKind, task: str, vo: str | None = None) -> Limit | None:
        """The limit on the executions of a task; None: none is set. For the arguments see `override`."""
        for place, own_vo in ((self._of_vo(task, vo), vo or ""), (self._of_task(task), "")):
            if (value := getattr(place, kind)) is not None:
                return Limit(kind, value, own_vo, place.limits_at)
        return None

    def disabled_at(self, task: str, vo: str | None = None) -> str | None:
        """The path of the `enabled: false` that holds for a task; None: it is enabled. For the arguments see
        `override`."""
        for place in (self._of_vo(task, vo), self._of_task(task)):
            if place.enabled is not None:
                return None if place.enabled else f"{place.path}.enabled"
        return None

    def object_limit(self, kind: LimitKind, obj: str, parts: tuple[str, ...], vo: str | None = None) -> Limit | None:
        """The limit for limiters on one object; None: none is set.

        Args:
            obj: The registered type, e.g. `storage_element`.
            parts: The key, then the extra parts, of the limiter, as texts.
            vo: None or empty: no VO.
        """
        if not self.objects:
            return None
        name, (key, *extra) = type_name(obj), parts
        for own_vo in (vo, "") if vo else ("",):
            for first in (key, DEFAULT):
                for length in range(len(extra), -1, -1):
                    found = self.objects.get((own_vo, name, first, *extra[:length]))
                    if found is not None and (value := getattr(found, kind)) is not None:
                        return Limit(kind, value, own_vo, found.path)
        return None

    def _of_task(self, task: str) -> Override:
        own, class_name = names_of(task)
        return self.tasks.get(own) or self.tasks.get(class_name) or _NO_OVERRIDE

    def _of_vo(self, task: str, vo: str | None) -> Override:
        if not vo:
            return _NO_OVERRIDE
        own, class_name = names_of(task)
        return self.task_vos.get((own, vo)) or self.task_vos.get((class_name, vo)) or _NO_OVERRIDE


def type_name(obj: str) -> str:
    """The one spelling of the name of a locked type in a configuration: `StorageElement` is `storage_element`."""
    return obj.replace("_", "").replace("-", "").lower()


def names_of(task: str) -> tuple[str, str]:
    """The names by which a configuration may call a task: its own, and that of its class alone."""
    return task, task.partition(":")[2]
