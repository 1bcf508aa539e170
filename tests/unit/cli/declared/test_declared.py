"""The declarations of commands agree with what runs, which is not imported for a help page."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import FunctionType
from typing import Any

import click
import pytest

from diracx.tasks.cli import app as application
from diracx.tasks.cli import options
from diracx.tasks.cli.declared import dead_letters, operating, processes
from diracx.tasks.cli.lazy import LazyCommand
from diracx.tasks.cli.queues import NAMES
from diracx.tasks.plumbing.jetstream.connection.server_urls import DEFAULT_PORT
from diracx.tasks.plumbing.operations.alerts import LEVELS
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER
from diracx.tasks.plumbing.worker.settings import DEFAULT_SLOTS


def option(command: click.Command, name: str) -> Any:
    return next(each for each in command.params if each.name == name)


def test_the_help_names_the_defaults_of_the_code() -> None:
    slots = ", ".join(f"{number} for {size}" for size, number in DEFAULT_SLOTS.items())
    assert option(processes.worker, "slots").help == f"The number of tasks at once; {slots}."
    assert option(processes.scheduler, "takeover").default == f"{DEFAULT_TAKEOVER.total_seconds():g}"
    assert f" {DEFAULT_PORT} by default" in option(processes.dev, "port").help


def test_all_queues_are_completed() -> None:
    context = click.Context(operating.pause)
    found = option(operating.pause, "queues").shell_complete(context, "")
    assert [each.value for each in found] == list(NAMES)


def commands() -> dict[str, LazyCommand]:
    groups = {each.name: each for each in application.app.commands.values() if isinstance(each, click.Group)}
    return {
        f"{group.name} {name}": command
        for group in (application.app, *groups.values())
        for name, command in group.commands.items()
        if isinstance(command, LazyCommand)
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_what_runs_takes_what_its_declaration_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = commands()[name].load()
    assert name.endswith(f" {declared.name}")
    asked: list[tuple[str, str, set[str]]] = []

    class Recorder:
        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, function: str) -> Any:
            return lambda **values: asked.append((self._module, function, set(values)))

    with monkeypatch.context() as patched:
        patched.setattr(options, "import_module", Recorder)
        assert declared.callback is not None
        declared.callback(**{str(each.name): None for each in declared.params if each.expose_value})
    ((module, function, given),) = asked
    body = getattr(import_module(module), function)
    assert isinstance(body, FunctionType)
    while (inner := getattr(body, "__wrapped__", None)) is not None:
        # A decorator makes one value of some of them.
        given = given - set(inspect.signature(body, follow_wrapped=False).parameters)
        body = inner
    made = {"filter_", "selection", "queues"}
    assert set(inspect.signature(body).parameters) - made == given - made


def test_the_latest_dead_letters_are_named() -> None:
    assert f"the latest {dead_letters.LATEST};" in option(dead_letters.list_, "limit").help


def test_all_alerts_are_completed() -> None:
    context = click.Context(operating.status)
    assert tuple(LEVELS) == operating.ALERTS
    found = option(operating.status, "ignore").shell_complete(context, "dead")
    assert [each.value for each in found] == ["dead-letters-full", "dead-letters"]
