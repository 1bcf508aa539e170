"""`--context` beside exported variables of somebody else: every command goes by the context, and a refusal names it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.command_line import CommandLine
from support.secured import password, secured_server

READING = (("dlq", "list"), ("locks", "list"), ("schedule", "list"), ("status",), ("config", "show"))
WRITING = (("pause", "normal-small"), ("cancel", "0192"))


@pytest.fixture
def secured(bare: CommandLine) -> Iterator[CommandLine]:
    """The command line with a context for each of two roles, and the access of a third one exported."""
    folder = bare.folder / "config" / "nats" / "context"
    folder.mkdir(parents=True)
    with secured_server("diracx") as server:
        for role in ("observer", "operator"):
            context = {"url": server.url, "user": f"diracx-{role}", "password": password("diracx", role)}
            (folder / f"{role}.json").write_text(json.dumps(context))
            (folder / f"{role}.json").chmod(0o600)
        bare.environment |= {
            "DIRACX_TASKS_NAMESPACE": "diracx",
            "DIRACX_TASKS_USER": "diracx-producer",
            "DIRACX_TASKS_PASSWORD": password("diracx", "producer"),
            "DIRACX_TASKS_API_PREFIX": "NOWHERE.API",
        }
        yield bare


def test_the_context_that_a_command_names_wins_over_exported_variables(secured: CommandLine) -> None:
    allowed = [(each, "observer") for each in READING] + [(each, "operator") for each in WRITING]
    refused = [(each, "observer") for each in WRITING]
    typed = [("setup", "--context", "operator"), *((*each, "--context", role) for each, role in (*allowed, *refused))]
    _, *found = secured.each(typed)
    for done in found[: len(allowed)]:
        assert done.returncode in (0, 1), (done.args, done.stderr)
        assert "permission" not in done.stderr
    for done in found[len(allowed) :]:
        assert done.returncode == 69, (done.args, done.stderr)
        assert " as user diracx-observer, from context observer: grant it to this user" in done.stderr


def test_variables_win_over_a_context_in_a_variable_and_the_refusal_names_them(secured: CommandLine) -> None:
    of_the_context = {"DIRACX_TASKS_NATS_URL": "", "DIRACX_TASKS_API_PREFIX": ""}
    done = secured("dlq", "list", DIRACX_TASKS_CONTEXT="operator", **of_the_context)
    assert done.returncode == 69
    assert "as user diracx-producer, from DIRACX_TASKS_USER" in done.stderr
