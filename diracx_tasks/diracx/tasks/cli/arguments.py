"""Tasks and labels, made from the arguments of the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import rich_click as click

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.registry import RegisteredTask


def task_from(registered: RegisteredTask, args: str | None, kwargs: str | None) -> BaseTask:
    """Make a task from the options `--args` and `--kwargs`.

    Args:
        args: A JSON list with fields in their order.
        kwargs: A JSON object with fields by name.

    Raises:
        click.BadParameter: A text is not JSON, is JSON of another type, or has a key twice.
        MalformedTaskError: A value does not fit its field; the text holds the path of the field.
    """
    positional = _decoded("--args", args, list, "a list, e.g. '[\"alice\"]'")
    named = _decoded("--kwargs", kwargs, dict, 'an object, e.g. \'{"owner_name": "alice"}\'')
    try:
        return registered.codec.from_arguments(positional, named)
    except MalformedTaskError as error:
        raise MalformedTaskError(f"{registered.name} cannot be made from these arguments: {error}") from None


def _decoded(option: str, text: str | None, kind: type, wanted: str) -> Any:
    if text is None:
        return kind()
    try:
        value = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_refuse_repeated, parse_int=str)
    except _RepeatedKeyError as error:
        raise click.BadParameter(f"the key {error.key!r} stands twice; remove one", param_hint=[option]) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(f"{error}; it must be JSON, {wanted}", param_hint=[option]) from None
    if not isinstance(value, kind):
        raise click.BadParameter(f"it must be {wanted}", param_hint=[option])
    return value


class _RepeatedKeyError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    """Refuse an object with a key that stands twice: the last one would win without a word."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _RepeatedKeyError(key)
        seen.add(key)


def labels_from(pairs: Sequence[str]) -> dict[str, str]:
    """Make labels from texts of the form `name=value`.

    Raises:
        click.BadParameter: A text has another form, or a name is given twice.
    """
    labels: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=["--label"])
        if name in labels:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=["--label"])
        labels[name] = value
    return labels
