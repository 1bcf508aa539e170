"""How queues and the time of a pause are named on the command line."""

from __future__ import annotations

from datetime import timedelta

import click
import pytest

from diracx.tasks.cli.queues import NAMES, Queues
from diracx.tasks.cli.terminal.durations import Duration
from diracx.tasks.plumbing.wire.names import Namespace

DIRACX = Namespace()


def names(*texts: str, namespace: Namespace = DIRACX) -> list[str]:
    return Queues(texts, everything=False).names(namespace)


def refusal(*texts: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        names(*texts)
    return caught.value.format_message()


@pytest.mark.parametrize("text", ["normal-small", "normal.small", "diracx.tasks.normal.small"])
def test_a_queue_goes_by_its_name_and_by_its_subject(text: str) -> None:
    assert names(text) == ["normal-small"]


def test_several_are_taken_in_their_order_and_each_once() -> None:
    assert names("realtime-large", "normal.small", "diracx.tasks.realtime.large") == ["realtime-large", "normal-small"]


def test_all_are_the_nine() -> None:
    assert Queues((), everything=True).names(DIRACX) == list(NAMES)
    assert len(set(NAMES)) == 9


@pytest.mark.parametrize(("texts", "everything"), [((), False), (("normal-small",), True)])
def test_either_some_or_all_are_to_be_said(texts: tuple[str, ...], everything: bool) -> None:
    with pytest.raises(click.UsageError, match=r"either QUEUE\.\.\., or --all"):
        Queues(texts, everything)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("normal-smal", "normal-small"),
        ("normal", "normal-small"),
        ("diracx.tasks.realtme.large", "realtime-large"),
        ("background_medium", "background-medium"),
    ],
)
def test_an_unknown_queue_is_told_with_near_names(text: str, meant: str) -> None:
    told = refusal("normal-large", text)
    assert told.startswith(f"unknown queue {text!r}; did you mean ")
    assert meant in told


def test_one_that_is_near_to_none_is_told_with_all() -> None:
    assert refusal("x") == f"unknown queue 'x'; there are {', '.join(NAMES)}"


def test_a_subject_of_another_namespace_is_told_as_such() -> None:
    assert refusal("acme.tasks.normal.small") == (
        "acme.tasks.normal.small is not of namespace diracx; add --namespace acme"
    )
    assert names("acme.tasks.normal.small", namespace=Namespace("acme")) == ["normal-small"]


DURATION = Duration(timedelta(seconds=1), timedelta(days=10))


@pytest.mark.parametrize(("text", "seconds"), [("1", 1), ("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800)])
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["0", "0.9s", "11d", "9" * 400])
def test_a_duration_out_of_bounds_is_told_with_them(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not from 1s to 10d"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "1h30m"])
def test_what_is_no_duration_is_told_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is no duration, e\.g\. 90s, 15m, 2h, 7d"):
        DURATION.convert(text, None, None)
