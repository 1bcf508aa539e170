"""Reads the limits of locked objects, in either spelling.

    limits:
      StorageElement:                       a locked type, in any spelling of its name
        "CERN-DST":                         a key, or `default`
          rate_limit: ...                   limits of every limiter on the key
          RemoveFile:                       a further part of the limiter, to any depth
            rate_limit: ...

Below the type `Task` stands the class of a task in place of a key: these are the limits of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.overrides.configuration import (
    DEFAULT,
    LimitKind,
    ObjectLimits,
    Override,
    RateLimit,
    type_name,
)
from diracx.tasks.plumbing.overrides.reading import below, converted, fields, mapping, positive, refused, unknown_key


class WrittenLimits(msgspec.Struct, frozen=True):
    """What one part of the file says."""

    objects: dict[tuple[str, ...], ObjectLimits]
    """As in `Configuration.objects`."""
    tasks: dict[str, ObjectLimits]
    """By the name of the task."""


class LimitSpelling(msgspec.Struct, frozen=True):
    """The keys of limits in one layout, and how their values are read."""

    keys: Mapping[str, tuple[LimitKind, Callable[[Any, str], RateLimit | int]]]

    def limits(self, raw: Mapping[str, Any], path: str) -> ObjectLimits:
        """The limits that stand directly in a mapping."""
        found: dict[str, Any] = {}
        for key, (kind, read) in self.keys.items():
            if raw.get(key) is not None:
                found[kind] = read(raw[key], below(path, key))
        return ObjectLimits(path=path, **found)


def read_rate(raw: Any, path: str) -> RateLimit:
    """`{limit, window_seconds}`."""
    rate: RateLimit = converted(fields(raw, path, RateLimit.__struct_fields__), RateLimit, path)
    return rate


def _read_limiter(raw: Any, path: str) -> int:
    found = fields(raw, path, ("limit",))
    if "limit" not in found:
        raise refused(path, "write `limit: <number>`")
    return positive(found["limit"], below(path, "limit"))


OUR_LIMITS: Final = LimitSpelling(
    {LimitKind.RATE: (LimitKind.RATE, read_rate), LimitKind.CONCURRENCY: (LimitKind.CONCURRENCY, positive)}
)
DIRACX_LIMITS: Final = LimitSpelling(
    {
        "RateLimiter": (LimitKind.RATE, read_rate),
        "ConcurrencyLimiter": (LimitKind.CONCURRENCY, _read_limiter),
    }
)


def read_limits(raw: Any, path: str, vo: str, spelling: LimitSpelling) -> WrittenLimits:
    """Read the mapping of all types.

    Args:
        raw: From the YAML.
        path: Its path.
        vo: The VO that it holds for; empty: all.
        spelling: That of the layout.

    Raises:
        ConfigurationError: A key or value is bad, or one type is written twice.
    """
    found = WrittenLimits({}, {})
    first: dict[str, str] = {}
    for obj, keys in mapping(raw, path).items():
        at = below(path, obj)
        if obj in spelling.keys:
            raise refused(at, f"a limit stands below its object; write it at {_right_place(path, obj, keys)}")
        name = type_name(obj)
        if name in first:
            raise refused(at, f"the same type as {below(path, first[name])}; keep one of them")
        first[name] = obj
        for key, place in mapping(keys, at).items():
            where = below(at, key)
            if key in spelling.keys:
                raise refused(where, f"a limit stands below a key of its type; write it at {at}.{DEFAULT}.{key}")
            if name == type_name(TASK):
                found.tasks[key] = _of_task(place, key, where, spelling)
            else:
                found.objects.update(_places(place, (vo, name, key), where, spelling))
    return found


def with_limits(override: Override | None, limits: ObjectLimits) -> Override:
    """The settings of a task with the limits that are written at another place, below the type `Task`.

    Raises:
        ConfigurationError: The settings have limits of their own.
    """
    own = override or Override(path=limits.path)
    if own.limited:
        raise refused(limits.path, f"{own.path} has limits of the same task; keep one place")
    return msgspec.structs.replace(
        own,
        rate_limit=limits.rate_limit,
        concurrency_limit=limits.concurrency_limit,
        limits_path=limits.path,
    )


def _right_place(path: str, limiter: str, types: Any) -> str:
    """Where a limiter belongs that was written above the type."""
    obj, keys = next(iter(types.items()), ("<Type>", None)) if isinstance(types, dict) else ("<Type>", None)
    if obj in ("limit", "window_seconds"):  # the limiter itself, with no object at all
        obj = "<Type>"
    key = next(iter(keys), DEFAULT) if isinstance(keys, dict) else DEFAULT
    return f"{path}.{obj}.{key}.{limiter}"


def _of_task(raw: Any, name: str, path: str, spelling: LimitSpelling) -> ObjectLimits:
    if name == DEFAULT:
        raise refused(path, "no limit holds for all tasks together; write the class of a task in place of `default`")
    return spelling.limits(fields(raw, path, spelling.keys), path)


def _places(
    raw: Any, place: tuple[str, ...], path: str, spelling: LimitSpelling
) -> Iterator[tuple[tuple[str, ...], ObjectLimits]]:
    found = mapping(raw, path)
    if spelling.keys.keys() & found:
        yield place, spelling.limits(found, path)
    for part, inner in found.items():
        if part in spelling.keys:
            continue
        if inner is not None and not isinstance(inner, dict):
            raise unknown_key(path, part, spelling.keys)
        yield from _places(inner, (*place, part), below(path, part), spelling)
