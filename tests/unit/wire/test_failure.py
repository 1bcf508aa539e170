"""The record of a failed execution."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
import pytest

from diracx.tasks.plumbing.wire.failure import Failure

E = TypeVar("E", bound=BaseException)


class LollygagError(Exception):
    pass


def caught(exception: E) -> E:
    with contextlib.suppress(BaseException):
        raise exception
    return exception


def test_a_failure_names_the_error_the_worker_and_the_time() -> None:
    before = datetime.now(UTC)
    failure = Failure.of(caught(ValueError("no such owner")), "worker-1")
    assert failure.type == "ValueError"
    assert failure.message == "no such owner"
    assert failure.worker == "worker-1"
    assert before <= failure.at <= datetime.now(UTC)
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert "in caught" in failure.traceback
    assert failure.traceback.endswith("ValueError: no such owner\n")


def test_a_class_that_is_not_built_in_is_named_with_its_module() -> None:
    assert Failure.of(LollygagError(), "w").type == f"{__name__}.LollygagError"


def test_a_cause_is_part_of_the_traceback() -> None:
    error = LollygagError("outer")
    error.__cause__ = caught(KeyError("inner"))
    assert "KeyError: 'inner'" in Failure.of(caught(error), "w").traceback


def test_each_error_of_a_group_is_part_of_the_traceback() -> None:
    group = ExceptionGroup("two", [caught(ValueError("one of them")), caught(KeyError("the other"))])
    text = Failure.of(caught(group), "w").traceback
    assert "one of them" in text
    assert "the other" in text


def test_without_a_traceback_there_is_none() -> None:
    failure = Failure.of(caught(ValueError("later, please")), "w", with_traceback=False)
    assert failure.traceback == ""
    assert failure.message == "later, please"


def test_a_long_message_keeps_its_head() -> None:
    exactly = Failure.of(ValueError("x" * 2_000), "w", with_traceback=False)
    assert exactly.message == "x" * 2_000
    longer = Failure.of(ValueError("x" * 2_001), "w", with_traceback=False)
    assert longer.message == "x" * 2_000 + " [cut]"


def test_a_long_traceback_keeps_its_end() -> None:
    text = Failure.of(caught(ValueError("x" * 20_000 + "the end")), "w").traceback
    assert text.startswith("[cut]\n")
    assert text.endswith("the end\n")
    assert len(text) == len("[cut]\n") + 8_000


def test_an_exception_whose_str_raises_is_described_all_the_same() -> None:
    class Shy(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError("not today")

    failure = Failure.of(caught(Shy()), "w")
    assert failure.message == "<str() of it raised RuntimeError>"
    assert failure.type.endswith("Shy")
    assert "in caught" in failure.traceback


def test_a_text_without_a_utf_8_form_can_be_stored() -> None:
    failure = Failure.of(caught(ValueError("report-\udcff.txt")), "w")
    assert failure.message == r"report-\udcff.txt"
    assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
def test_a_base_exception_is_described_too(error: BaseException) -> None:
    assert Failure.of(caught(error), "w").type == type(error).__name__


def test_a_failure_is_stored_as_json_that_a_person_can_read() -> None:
    failure = Failure(
        type="ValueError",
        message="no such owner",
        traceback="Traceback...\n",
        worker="host-1234",
        at=datetime(2026, 12, 1, 6, 0, 0, 5, tzinfo=UTC),
    )
    stored = (
        b'{"type":"ValueError","message":"no such owner","traceback":"Traceback...\\n",'
        b'"worker":"host-1234","at":"2026-12-01T06:00:00.000005Z"}'
    )
    assert msgspec.json.encode(failure) == stored
    assert msgspec.json.decode(stored, type=Failure) == failure
