"""Reads parts of a configuration from YAML. Every refusal names the path of the bad key or value.

In all parts a key without a value (`key:` or `key: null`) counts as one that is not written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import TaskDefinitionError, near_names
from diracx.tasks.plumbing.overrides.configuration import ConfigurationError
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase

MIN_INTERVAL_SECONDS: Final = 1
"""The shortest interval of a schedule in a configuration. A class may have a shorter one in its code."""


def below(path: str, key: str) -> str:
    """The path of a key."""
    return f"{path}.{key}" if path else key


def refused(path: str, problem: str) -> ConfigurationError:
    """The error for a path; an empty one means the whole configuration."""
    return ConfigurationError(f"{path or 'the configuration'}: {problem}")


def mapping(raw: Any, path: str) -> dict[str, Any]:
    """A mapping whose keys are names that somebody chose, so they are not empty.

    Raises:
        ConfigurationError: It is none, or a key is empty.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise refused(path, f"write a mapping (`key: value`), not {_named(raw)}")
    if "" in raw:
        raise refused(path, "a key is empty; write a name")
    return raw


def fields(raw: Any, path: str, known: Collection[str]) -> dict[str, Any]:
    """A mapping of known keys, without those that have no value.

    Raises:
        ConfigurationError: It is none, or a key is unknown.
    """
    found = mapping(raw, path)
    for key in found:
        if key not in known:
            raise unknown_key(path, key, known)
    return {key: value for key, value in found.items() if value is not None}


def unknown_key(path: str, key: str, known: Collection[str]) -> ConfigurationError:
    """The error for an unknown key, with those that may be meant."""
    near = near_names(key, known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known here: {', '.join(known)}"
    return refused(below(path, key), f"unknown key; {hint}")


def converted(raw: Any, kind: Any, path: str) -> Any:
    """A value of a type that msgspec knows.

    Raises:
        ConfigurationError: It has another type, or its own check refuses it.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        # The text of the error ends with a relative path: `... - at `$.limit``.
        text, _, inner = str(error).partition(" - at `$")
        raise refused(f"{path}{inner.rstrip('`')}", text) from None


def positive(raw: Any, path: str) -> int:
    """A whole number from 1 on."""
    number: int = converted(raw, int, path)
    if number < 1:
        raise refused(path, f"{number} must be 1 or more")
    return number


def arguments(raw: Any, path: str) -> dict[str, Any]:
    """The arguments of an entry, as JSON has them: a date becomes its text.

    Raises:
        ConfigurationError: JSON has no such value.
    """
    try:
        builtins = msgspec.to_builtins(mapping(raw, path))
        json.dumps(builtins, allow_nan=False)  # msgspec would write null for a number that is none
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(builtins))
        return found
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise refused(path, f"not a value of JSON: {error}") from None


def schedule(make: Callable[[], TaskScheduleBase], path: str) -> TaskScheduleBase:
    """Make a schedule.

    Raises:
        ConfigurationError: It refuses its arguments, or runs more often than `MIN_INTERVAL_SECONDS` allows.
    """
    try:
        made = make()
    except TaskDefinitionError as error:
        raise refused(path, str(error)) from None
    if isinstance(made, IntervalSeconds) and made.seconds < MIN_INTERVAL_SECONDS:
        raise refused(path, f"an interval of {made.seconds:g} s is too short; write {MIN_INTERVAL_SECONDS} or more")
    return made


def _named(raw: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(raw), f"a {type(raw).__name__}")
