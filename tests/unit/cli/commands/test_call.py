"""The result of a call in words, whatever the task returned."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from diracx.tasks.cli.calling.execution import described
from diracx.tasks.cli.calling.lock_server import NowhereToRun
from diracx.tasks.cli.commands.call import report
from diracx.tasks.plumbing.exceptions import ResultIsMissingError
from diracx.tasks.plumbing.execution.job import Succeeded
from diracx.tasks.plumbing.wire.failure import Failure


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


class NoText:
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


class Odd(str):
    __slots__ = ()

    def encode(self, *args: object) -> bytes:
        raise ValueError("not this way")


class Disguised:
    def __str__(self) -> str:
        return Odd("a\x1b[31m")

    def __format__(self, spec: str) -> str:
        raise ValueError("not this way either")


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ("two\nlines \x1b[31m\x00\udcff [red]é語", "two\nlines \\x1b[31m\\x00\\udcff [red]é語"),
        (Raises(ValueError("no text")), "<str() of it raised ValueError>"),
        (Raises(SystemExit(3)), "<str() of it raised SystemExit>"),
        (Raises(KeyboardInterrupt()), "<str() of it raised KeyboardInterrupt>"),
        ([Raises(GeneratorExit())], "<str() of it raised GeneratorExit>"),
        (NoText(), "<str() of it raised TypeError>"),
        (Disguised(), "a\\x1b[31m"),
        (10**5000, "<str() of it raised ValueError>"),
        (endless(), "[[...]]"),
    ],
    ids=lambda value: "",  # the text of some would raise
)
def test_a_call_that_succeeded_is_reported_as_a_success(
    value: object, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(Succeeded(value), SimpleNamespace()) == 0  # type: ignore[arg-type]  # it is not looked at
    assert capsys.readouterr() == (f"Result: {shown}\n", "")


class UnshownError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


class OddNotesError(Exception):
    __notes__ = (1, "two")  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [UnshownError, OddNotesError])
def test_a_failure_is_described_whatever_was_raised(kind: type[Exception]) -> None:
    failure = Failure("acme.Gone", "gone", "Traceback: gone", "worker", datetime.now(UTC))
    assert "gone" in described(kind("gone"), failure)
    assert described(UnshownError(), msgspec.structs.replace(failure, traceback="")) == "acme.Gone: gone"


def test_a_result_that_is_deep_or_large_is_reported_too(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (nested(), "\x1b" * 1_000_000):
        assert report(Succeeded(value), SimpleNamespace()) == 0  # type: ignore[arg-type]  # it is not looked at
    first, second = capsys.readouterr().out.splitlines()
    assert first == "Result: <str() of it raised RecursionError>"
    assert len(second) == len("Result: ") + 4_000_000


async def test_beside_an_embedded_server_no_result_is_kept() -> None:
    with pytest.raises(ResultIsMissingError, match=r"^no result of 1: the embedded server of this call keeps none"):
        await NowhereToRun().result("1")
