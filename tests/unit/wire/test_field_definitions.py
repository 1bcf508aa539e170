"""Classes that cannot travel as JSON are refused when they are defined."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import Owner, Sync, Tree, with_field


class TakesArguments:
    def __init__(self, owner_name: str) -> None:
        self.owner_name = owner_name


class ForgotDecorator:
    owner_name: str


class ForgotItAgain(Sync):
    deep: bool = False


@dataclass
class WithInitVar:
    name: str
    token: InitVar[int]


@dataclass
class SetLater:
    name: str
    upper: str = field(init=False)


@dataclass
class Misspelt:
    owner: Ownr  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Nested:
    trees: dict[str, list[Elsewhere]]


@dataclass
class Elsewhere:
    path: Path


@pytest.mark.parametrize(
    ("task_class", "why"),
    [
        (TakesArguments, "is no dataclass"),
        (ForgotDecorator, "is no dataclass"),
        (ForgotItAgain, "is no dataclass"),
        (WithInitVar, "InitVar"),
        (SetLater, "the field upper has init=False"),
        (Misspelt, "'Ownr' is not defined"),
        (Nested, r"the field \$\.trees\.path is a \w*Path"),
    ],
)
def test_a_class_that_json_cannot_carry_is_refused_and_named(task_class: type, why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why) as caught:
        FieldsCodec(task_class)
    assert str(caught.value).startswith(f"{__name__}.{task_class.__name__}")


@pytest.mark.parametrize(
    "kind",
    [
        Path,
        complex,
        object,
        range,
        Callable[[], int],
        deque[int],
        Exception,
        list[Path],
        dict[str, Path],
        tuple[int, Path],
        tuple[Path, ...],
        Path | None,
        Path | int,
        str | bytes,
        list[int] | set[int],
        Owner | Tree,
        dict[tuple[int, int], str],
        dict[bool, str],
        dict[frozenset[int], str],
        list[dict[Owner, str]],
    ],
    ids=str,
)
def test_a_field_that_json_cannot_carry_is_refused(kind: Any) -> None:
    with pytest.raises(TaskDefinitionError, match=r"Task: the field (\$\.)?value "):
        FieldsCodec(with_field(kind))
