"""A task whose own code runs when it is built arrives as it was sent, or is refused: the worker builds it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.task_shapes import with_field
from support.value_shapes import Folded, Rooted


@dataclass
class Absolute:
    path: str

    def __post_init__(self) -> None:
        if self.path.startswith("/"):
            raise ValueError("it is\nabsolute")
        self.path = f"/{self.path}"


@dataclass
class Looked:
    path: str

    def __post_init__(self) -> None:
        self.path = {"a": "b"}[self.path]


numbers = count()


@dataclass
class Numbered:
    number: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.number = next(numbers)


@dataclass
class Dated:
    """Each time it is built, it is a day later."""

    at: datetime

    def __post_init__(self) -> None:
        self.at += timedelta(days=1)


@dataclass
class Cached:
    path: str
    key: str = field(init=False, default="")
    parts: list[int] = field(init=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        self.key = self.path.casefold()
        self.parts = [next(numbers)]


class Quoted:
    """A data descriptor: it runs when a task is built."""

    def __get__(self, task: Any, task_class: type) -> Any:
        return vars(task)["_text"] if task is not None else ""

    def __set__(self, task: Any, text: str) -> None:
        vars(task)["_text"] = f"<{text}>"


@dataclass
class Described:
    text: str = Quoted()  # type: ignore[assignment]


class Stamped:
    def __new__(cls, *args: object) -> Stamped:
        return super().__new__(cls)


@dataclass
class StampedTask(Stamped):
    text: str


AGAIN = "`__post_init__` runs again on the worker, so write it so that a second time changes nothing"


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Rooted("a"), rf"\$\.path is '/a', and would arrive as '//a'; {AGAIN}"),
        (with_field(list[Rooted])([Rooted("a")]), rf"\$\.value\[0\]\.path is '/a', .*; {AGAIN}"),
        (Absolute("a"), rf"cannot be read from its own JSON: it is absolute.*; {AGAIN}"),
        (Looked("a"), rf"cannot be read from its own JSON: 'b'; {AGAIN}"),
        (
            Numbered(),
            rf"\$\.number is \d+, and would arrive as \d+; {AGAIN}, or mark .* field\(init=False, compare=False\)",
        ),
        (Dated(datetime(2026, 12, 1, tzinfo=UTC)), rf"\$\.at is datetime.*; {AGAIN}"),
        (Dated(datetime(2026, 12, 1)), rf"\$\.at is datetime.*; {AGAIN}"),  # noqa: DTZ001
        (Described("a"), r"\$\.text is '<a>', and would|missing required field `text`"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_post_init_that_changes_its_own_result_is_refused(task: Any, why: str) -> None:
    with pytest.raises(MalformedTaskError, match=why) as refused:
        FieldsCodec(type(task)).encode(task)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("task", [Folded("ABC"), Cached("ABC"), StampedTask("a")], ids=lambda task: type(task).__name__)
def test_a_task_that_is_built_again_to_the_same_is_accepted(task: Any) -> None:
    codec = FieldsCodec(type(task))
    assert codec.decode(codec.encode(task)) == task


@dataclass
class Nested:
    inner: Nested | None = None

    def __post_init__(self) -> None: ...


def test_a_task_that_is_too_deep_to_be_compared_is_refused() -> None:
    codec = FieldsCodec(Nested)
    task, refusal = Nested(), ""
    for level in range(3_000):
        task = Nested(task)
        if level % 3 == 0 and level > 800 and not refusal:
            try:
                codec.encode(task)
            except MalformedTaskError as error:
                refusal = str(error)
    assert refusal == "Nested: it is nested too deeply; make it flat"


class Abrupt(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(3), Abrupt("no second time")], ids=repr)
def test_whatever_a_second_post_init_raises_is_one_line(error: BaseException) -> None:
    @dataclass
    class Strict:
        path: str

        def __post_init__(self) -> None:
            if self.path.startswith("/"):
                raise error
            self.path = f"/{self.path}"

    codec = FieldsCodec(Strict)
    with pytest.raises(MalformedTaskError, match=f"own JSON: {error}; {AGAIN}"):
        codec.encode(Strict("a"))
    with pytest.raises(MalformedTaskError, match=f"^{type(error).__name__}: {error}$"):
        codec.decode(b'{"path":"/a"}')


def test_an_interruption_at_the_keyboard_is_none_of_the_task() -> None:
    @dataclass
    class Slow:
        path: str

        def __post_init__(self) -> None:
            if self.path.startswith("/"):
                raise KeyboardInterrupt
            self.path = f"/{self.path}"

    codec = FieldsCodec(Slow)
    with pytest.raises(KeyboardInterrupt):
        codec.encode(Slow("a"))
    with pytest.raises(KeyboardInterrupt):
        codec.decode(b'{"path":"/a"}')


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it has no text")


def test_an_error_of_post_init_without_a_text_is_one_line_too() -> None:
    @dataclass
    class Once:
        number: int

        def __post_init__(self) -> None:
            if self.number == 2:
                raise UnprintableError
            self.number = 2

    with pytest.raises(MalformedTaskError, match=r"<str\(\) of it raised RuntimeError>"):
        FieldsCodec(Once).decode(b'{"number":2}')
    with pytest.raises(MalformedTaskError, match=r"<str\(\) of it raised RuntimeError>"):
        FieldsCodec(Once).encode(Once(1))
