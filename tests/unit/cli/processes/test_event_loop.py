"""Which event loop `--loop` gives a worker or a scheduler."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from diracx.tasks.cli.processes.event_loop import loop_option
from diracx.tasks.plumbing.execution.loops import LoopFactory


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


def chosen(*arguments: str, **environment: str) -> str:
    @click.command()
    @loop_option
    def command(new_loop: LoopFactory) -> None:
        click.echo(new_loop.__name__)

    return CliRunner().invoke(command, arguments, env=environment).output


@pytest.mark.usefixtures("fast")
def test_uvloop_is_used_where_it_is_installed_unless_asyncio_is_asked_for() -> None:
    assert chosen() == chosen("--loop", "uvloop") == "a_loop\n"
    assert chosen("--loop", "asyncio") == chosen(DIRACX_TASKS_LOOP="asyncio") == "new_event_loop\n"


@pytest.mark.usefixtures("slow")
def test_asyncio_is_used_without_uvloop_unless_that_is_asked_for() -> None:
    assert chosen() == chosen("--loop", "asyncio") == "new_event_loop\n"
    assert "uvloop is not installed: pip install 'diracx-tasks[uvloop]'" in chosen("--loop", "uvloop")
