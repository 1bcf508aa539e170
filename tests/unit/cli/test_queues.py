"""The names of queues on the command line."""

from __future__ import annotations

import click
import pytest

from diracx.tasks.cli.queues import NAMES, Queues
from diracx.tasks.plumbing.wire.names import Namespace

DIRACX = Namespace()


def names(*texts: str, namespace: Namespace = DIRACX) -> list[str]:
    return Queues(texts, everything=False).names(namespace)


def refusal(*texts: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        names(*texts)
    return caught.value.format_message()


@pytest.mark.parametrize("text", ["normal-small", "normal.small", "diracx.tasks.normal.small"])
def test_a_queue_is_named_by_its_name_or_its_subject(text: str) -> None:
    assert names(text) == ["normal-small"]


def test_several_queues_keep_their_order_and_appear_once() -> None:
    assert names("realtime-large", "normal.small", "diracx.tasks.realtime.large") == ["realtime-large", "normal-small"]


def test_all_stands_for_the_nine_queues() -> None:
    assert Queues((), everything=True).names(DIRACX) == list(NAMES)
    assert len(set(NAMES)) == 9


@pytest.mark.parametrize(("texts", "everything"), [((), False), (("normal-small",), True)])
def test_either_queues_or_all_must_be_given(texts: tuple[str, ...], everything: bool) -> None:
    with pytest.raises(click.UsageError, match=r"either QUEUE\.\.\. or --all"):
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
def test_an_unknown_queue_is_refused_with_near_names(text: str, meant: str) -> None:
    error = refusal("normal-large", text)
    assert error.startswith(f"unknown queue {text!r}; did you mean ")
    assert meant in error


def test_a_name_that_is_near_to_none_is_refused_with_all_names() -> None:
    assert refusal("x") == f"unknown queue 'x'; there are {', '.join(NAMES)}"


def test_a_subject_of_another_namespace_is_refused() -> None:
    assert refusal("acme.tasks.normal.small") == (
        "acme.tasks.normal.small is not of namespace diracx; add --namespace acme"
    )
    assert names("acme.tasks.normal.small", namespace=Namespace("acme")) == ["normal-small"]
