"""`status --check`: what a monitor reads, and its exit codes."""

from __future__ import annotations

import json

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import CommandLine, OnTheServer


async def test_the_exit_code_and_the_first_line_tell_the_worst_alert_that_is_not_ignored(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    names = on_the_server.names
    missing = with_server("status", "--check")
    assert (missing.returncode, missing.stderr) == (2, "")
    assert missing.stdout.startswith(f"CRITICAL: namespace {names.name} does not exist on this server: ")
    await on_the_server.set_up()
    fine = with_server("status", "--check")
    assert (fine.returncode, fine.stderr) == (0, "")
    assert fine.stdout == f"OK: namespace {names.name} on {on_the_server.connection.server}: no alerts\n"

    await on_the_server.connection.request(names.dead_letter_subject("a:B", 1), b"{}")
    assert with_server("pause", "normal-small").returncode == 0
    warned = with_server("status", "--check")
    assert (warned.returncode, warned.stderr) == (1, "")
    first, second = warned.stdout.splitlines()
    namespace = f"--namespace {names.name}"
    assert first == f"WARNING: 1 dead letter stored: run `diracx-task-run dlq list {namespace}`"
    assert second.startswith("WARNING: paused: normal-small until ")
    ignoring = ("--ignore", "dead-letters", "--ignore", "queue-paused")
    fine = with_server("status", "--check", *ignoring)
    assert fine.returncode == 0
    assert fine.stdout.endswith(": no alerts, 2 ignored\n")

    await on_the_server.connection.api(f"STREAM.DELETE.KV_{names.locks_bucket}")
    done = with_server("status", "--check", "--json", "--ignore", "queue-paused")
    assert (done.returncode, done.stderr) == (2, "")
    document = json.loads(done.stdout)
    assert list(document) == ["state", "text", "alerts", "ignored"]
    setup = f"diracx-task-run setup {namespace}"
    text = f"bucket {names.locks_bucket} is missing"
    assert (document["state"], document["text"]) == ("CRITICAL", f"{text}: run `{setup}`")
    assert document["alerts"][0] == {"level": "critical", "name": "bucket-missing", "text": text, "command": setup}
    assert [alert["name"] for alert in document["alerts"]] == ["bucket-missing", "dead-letters"]
    assert [alert["name"] for alert in document["ignored"]] == ["queue-paused"]


def test_without_a_server_or_a_permission_the_state_is_unknown(extension: CommandLine, restricted: CommandLine) -> None:
    done = restricted("status", "--check")
    assert done.returncode == 3
    assert done.stdout.startswith("UNKNOWN: no permission for publish to ")
    assert done.stdout.count("\n") == 1
    extension.environment["DIRACX_TASKS_NATS_URL"] = "nats://127.0.0.1:9"
    done = extension("status", "--check", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["state"] == "UNKNOWN"


def test_jetstream_that_was_disabled_is_critical_and_named(extension: CommandLine, own_server: EmbeddedServer) -> None:
    """As the server of a cluster does by itself when its disk is full."""
    extension.environment["DIRACX_TASKS_NATS_URL"] = own_server.url
    own_server.extra_config = "jetstream: disabled"
    own_server.reload()
    done = extension("status", "--check")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith(
        f"CRITICAL: JetStream is disabled on {own_server.url}, by its configuration or since "
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--check", "--ignore", "dead-leters"], "no alert has the name 'dead-leters'; did you mean dead-letters"),
        (["--check", "--ignore", "zzz"], "no alert has the name 'zzz'; there are stream-missing, "),
        (["--ignore", "dead-letters"], "--ignore belongs to --check"),
        (["--check", "--watch"], "--watch and --check exclude each other"),
    ],
)
def test_bad_usage_is_one_line(bare: CommandLine, arguments: list[str], error: str) -> None:
    done = bare("status", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1
