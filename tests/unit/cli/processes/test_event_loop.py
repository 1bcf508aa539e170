"""Which event loop `--loop` gives a worker or a scheduler."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import click
import pytest

from diracx.tasks.cli.processes.event_loop import loop_factory


def a_loop() -> asyncio.AbstractEventLoop:
    raise AssertionError("only its name is looked at")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("uvloop")
    library.new_event_loop = a_loop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uvloop", library)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)


@pytest.mark.usefixtures("fast")
def test_uvloop_is_used_where_it_is_installed_unless_asyncio_is_asked_for() -> None:
    assert [loop_factory(name) for name in ("auto", "uvloop", "asyncio")] == [a_loop, a_loop, asyncio.new_event_loop]


@pytest.mark.usefixtures("slow")
def test_asyncio_is_used_without_uvloop_unless_that_is_asked_for() -> None:
    assert [loop_factory(name) for name in ("auto", "asyncio")] == [asyncio.new_event_loop] * 2
    with pytest.raises(click.BadParameter) as caught:
        loop_factory("uvloop")
    assert caught.value.format_message() == (
        "Invalid value for '--loop': uvloop is not installed: pip install 'diracx-tasks[uvloop]'"
    )
