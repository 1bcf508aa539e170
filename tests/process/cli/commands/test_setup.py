"""`setup`, as an operator runs it."""

from __future__ import annotations

import pytest

from support.command_line import CommandLine, OnTheServer


def test_it_prints_each_asset_that_it_created_and_then_that_nothing_is_left_to_do(
    with_server: CommandLine, namespace: str
) -> None:
    lines = with_server("setup").stdout.splitlines()
    assert f"created stream {namespace.upper()}_TASKS" in lines
    assert f"created bucket {namespace}_locks" in lines
    assert "created consumer normal-small" in lines
    assert len(lines) == 17
    assert with_server("setup").stdout == f"namespace {namespace} is up to date\n"


async def test_a_difference_that_cannot_be_updated_is_exit_69_and_names_the_field(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    name = on_the_server.names.dead_letters_stream
    await on_the_server.connection.api(
        f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{on_the_server.names.name}.dlq.>"], "storage": "memory"}
    )
    done = with_server("setup")
    assert (done.returncode, done.stdout) == (69, "")
    assert f"error: stream {name}: storage is 'memory' on the server, 'file' is needed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.one_server("a cluster has what is refused here")
def test_more_replicas_than_servers_are_refused_in_the_servers_words(with_server: CommandLine) -> None:
    assert with_server("setup").returncode == 0
    done = with_server("setup", "--replicas", "3")
    assert (done.returncode, done.stdout) == (69, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 3 replicas need a cluster of 3 nats-servers or more: JetStream says: replicas > 1 ")


def test_without_the_permission_it_is_an_error_rather_than_silent(restricted: CommandLine) -> None:
    done = restricted("setup")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no permission for publish to $JS.API." in done.stderr
