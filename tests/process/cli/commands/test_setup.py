"""`dlq list` and `setup`."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import CommandLine, OnTheServer

BURST = ("worker", "--worker-size", "small", "--burst")
ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED"


async def test_a_dead_letter_is_listed_with_arguments_labels_and_the_whole_story(with_server: CommandLine) -> None:
    task_id = with_server(
        "submit", "lollygag:Dies", "--args", '["mice"]', "--label", "vo=lhcb", "--label", "x=a=b"
    ).stdout.strip()
    assert with_server(*BURST).returncode == 0
    (letter,) = with_server.json("dlq", "list")
    (error,) = letter.pop("errors")
    submitted, died = (datetime.fromisoformat(letter.pop(name)) for name in ("submitted", "died"))
    assert submitted.tzinfo is not None
    assert submitted <= died
    assert letter == {
        "seq": 1,
        "task": "lollygag:Dies",
        "id": task_id,
        "args": {"why": "mice"},
        "labels": {"vo": "lhcb", "x": "a=b"},
        "reason": "no retry is left after 1 executions: ValueError: mice",
        "attempts": 1,
    }
    assert list(error) == ["type", "message", "traceback", "worker", "at"]
    assert (error["type"], error["message"]) == ("ValueError", "mice")
    assert "raise ValueError(self.why)" in error["traceback"]
    assert error["worker"].endswith("-small")


async def test_the_fields_of_a_dead_letter_stand_in_the_order_of_the_contract(with_server: CommandLine) -> None:
    with_server("submit", "lollygag:Dies", "--args", '["mice"]')
    with_server(*BURST)
    (letter,) = with_server.json("dlq", "list")
    assert list(letter) == ["seq", "task", "id", "args", "labels", "reason", "attempts", "errors", "submitted", "died"]


async def test_malformed_and_nameless_messages_are_listed_with_what_is_known(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    assert with_server("setup").returncode == 0
    subject = f"{on_the_server.names.name}.tasks.normal.small"
    connection = on_the_server.connection
    await connection.request(subject, b'{"why":', headers={"Task-Name": "lollygag:Dies"})
    await connection.request(subject, b"\xff\xfe")
    await connection.request(subject, b'{"why": 1}', headers={"Task-Name": "lollygag:Dies", "Task-Id": "mine"})
    assert with_server(*BURST).returncode == 0
    letters = with_server.json("dlq", "list")
    assert [(each["task"], each["id"], each["args"], each["attempts"]) for each in letters] == [
        ("lollygag:Dies", "1", None, 0),
        (None, "2", None, 0),
        ("lollygag:Dies", "mine", {"why": 1}, 0),
    ]
    assert all(each["reason"].startswith("malformed: ") and each["submitted"] for each in letters)
    assert "$.why" in letters[2]["reason"]
    table = with_server("dlq", "list").stdout.splitlines()
    assert len(table) == 4
    assert table[0].split() == ["seq", "died", "task", "id", "attempts", "reason"]


async def test_an_advisory_without_a_dead_letter_is_listed_once_and_others_are_hidden(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    with_server("submit", "lollygag:Dies", "--args", '["mice"]')
    with_server(*BURST)
    stream = on_the_server.names.tasks_stream
    advisory = {
        "type": "io.nats.jetstream.advisory.v1.terminated",
        "id": "a",
        "timestamp": "2026-05-01T00:00:00.5Z",
        "stream": stream,
        "consumer": "normal-small",
        "consumer_seq": 7,
        "stream_seq": 7,
        "deliveries": 3,
        "reason": "by hand",
    }
    for _ in range(2):
        await on_the_server.connection.request(f"{ADVISORY}.{stream}.normal-small", json.dumps(advisory).encode())
    died, by_hand = with_server.json("dlq", "list")
    assert died["task"] == "lollygag:Dies"
    assert by_hand["reason"] == (
        "terminated on normal-small after 3 deliveries, message 7: by hand (the message is gone)"
    )
    assert by_hand["died"] == "2026-05-01T00:00:00.5Z" or by_hand["died"] == "2026-05-01T00:00:00.500000Z"
    assert [by_hand[name] for name in ("task", "id", "args", "attempts", "errors", "labels")] == [
        None,
        None,
        None,
        None,
        [],
        {},
    ]


def test_where_nothing_is_set_up_there_are_no_dead_letters_and_nothing_is_created(
    with_server: CommandLine, namespace: str
) -> None:
    for _ in range(2):
        done = with_server("dlq", "list", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
        assert f"there is no stream {namespace.upper()}_DLQ" in done.stderr


def test_setup_tells_what_it_created_and_then_that_nothing_is_left_to_do(
    with_server: CommandLine, namespace: str
) -> None:
    lines = with_server("setup").stdout.splitlines()
    assert f"created stream {namespace.upper()}_TASKS" in lines
    assert f"created bucket {namespace}_locks" in lines
    assert "created consumer normal-small" in lines
    assert len(lines) == 17
    assert with_server("setup").stdout == f"everything stands as needed in namespace {namespace}\n"


async def test_drift_that_cannot_be_mended_is_exit_69_and_names_the_field(
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


def test_more_replicas_than_servers_are_refused_in_the_servers_words(with_server: CommandLine) -> None:
    assert with_server("setup").returncode == 0
    done = with_server("setup", "--replicas", "3")
    assert done.returncode == 69
    assert "replicas > 1 not supported" in done.stderr


@pytest.fixture
def restricted(own_server: EmbeddedServer, extension: CommandLine, namespace: str) -> CommandLine:
    """A user that may ask for nothing but the account's information."""
    own_server.extra_config = (
        "authorization { users: [{ user: me, password: secret, permissions: {"
        f'publish: ["$JS.API.INFO"], subscribe: ["_INBOX_{namespace}_operator.>"] }} }}] }}'
    )
    own_server.reload()
    extension.environment |= {
        "DIRACX_TASKS_NATS_URL": own_server.url,
        "DIRACX_TASKS_USER": "me",
        "DIRACX_TASKS_PASSWORD": "secret",
    }
    return extension


def test_setup_without_the_permission_is_an_error_rather_than_silent(restricted: CommandLine) -> None:
    done = restricted("setup")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no permission for publish to $JS.API." in done.stderr


def test_a_server_that_does_not_let_us_in_is_exit_69_and_call_embeds_none(restricted: CommandLine) -> None:
    done = restricted("call", "lollygag:SyncOwnersTask", "--args", '["alice"]', DIRACX_TASKS_PASSWORD="wrong")
    assert (done.returncode, done.stdout) == (69, "")
    assert "authorization refused" in done.stderr
    assert "wrong" not in done.stderr
