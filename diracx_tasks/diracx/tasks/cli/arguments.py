"""From words on the command line to a task, a time and labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import rich_click as click

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.registry import RegisteredTask
from diracx.tasks.plumbing.wire.times import from_rfc3339


def task_from(registered: RegisteredTask, args: str | None, kwargs: str | None) -> BaseTask:
    """Make a task from the options `--args` and `--kwargs`.

    Args:
        args: A JSON list: fields in their order.
        kwargs: A JSON object: fields by name.

    Raises:
        click.BadParameter: No JSON, or JSON of another kind.
        MalformedTaskError: A value does not fit its field; its path is named.
    """
    positional = _decoded("--args", args, list, "a list, e.g. '[\"alice\"]'")
    named = _decoded("--kwargs", kwargs, dict, 'an object, e.g. \'{"owner_name": "alice"}\'')
    try:
        return registered.codec.from_arguments(positional, named)
    except MalformedTaskError as error:
        raise MalformedTaskError(f"{registered.name} cannot be made from these arguments: {error}") from None
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise MalformedTaskError(f"{registered.name}: an argument is out of range: {error}") from None


def _decoded(option: str, text: str | None, kind: type, wanted: str) -> Any:
    if text is None:
        return kind()
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(f"{error}; it must be JSON, {wanted}", param_hint=[option]) from None
    if not isinstance(value, kind):
        raise click.BadParameter(f"it must be {wanted}", param_hint=[option])
    return value


def due_time(at: str | None, delay: timedelta | None) -> datetime | None:
    """When to run, from the options `--at` (RFC 3339) and `--delay`; None is at once.

    Raises:
        click.UsageError: Both are given, or `at` is no time.
    """
    if at is not None and delay is not None:
        raise click.UsageError("--at and --delay exclude each other")
    if delay is not None:
        return datetime.now(UTC) + delay
    if at is None:
        return None
    try:
        datetime.fromisoformat(at)
    except ValueError:
        raise click.BadParameter(f"{at!r} is no time; write e.g. 2026-12-01T06:00:00Z", param_hint=["--at"]) from None
    try:
        return from_rfc3339(at)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint=["--at"]) from None


def labels_from(pairs: Sequence[str]) -> dict[str, str]:
    """Labels from `name=value` each.

    Raises:
        click.BadParameter: One has another form.
    """
    labels = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=["--label"])
        labels[name] = value
    return labels
