"""`dlq list`, and `dlq show` of messages that the server gave up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from diracx.tasks.plumbing.jetstream.stream_messages import delete_message
from diracx.tasks.plumbing.wire.failure import Failure
from support.command_line import CommandLine, OnTheServer
from support.dead_letters import HEADERS, DeadLetterBox

NAME = HEADERS["Task-Name"]
OTHER = HEADERS | {"Task-Name": "lollygag:Other", "Task-Id": "other"}
BURST = ("worker", "--worker-size", "small", "--burst")
ADVISORY = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED"


async def test_a_dead_letter_is_listed_with_arguments_labels_and_all_errors(with_server: CommandLine) -> None:
    task_id = with_server(
        "submit", "lollygag:Dies", "--args", '["mice"]', "--label", "vo=lhcb", "--label", "x=a=b"
    ).stdout.strip()
    assert with_server(*BURST).returncode == 0
    (letter,) = with_server.json("dlq", "list")
    in_the_order_of_the_contract = "seq task id args labels reason attempts errors submitted died"
    assert " ".join(letter) == in_the_order_of_the_contract
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
        "reason": "no retry is left after 1 execution: ValueError: mice",
        "attempts": 1,
    }
    assert list(error) == ["type", "message", "traceback", "worker", "at"]
    assert (error["type"], error["message"]) == ("ValueError", "mice")
    assert "raise ValueError(self.why)" in error["traceback"]
    assert "-small-" in error["worker"]


async def test_malformed_and_nameless_messages_are_listed_with_the_known_fields(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    await on_the_server.set_up()
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
    with_server: CommandLine, on_the_server: OnTheServer, box: DeadLetterBox
) -> None:
    await box.add()
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
    assert died["task"] == NAME
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
    for done in with_server.each([("dlq", "list", "--json")] * 2):
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
        assert f"stream {namespace.upper()}_DLQ is missing on this server" in done.stderr


async def test_list_selects_by_task_and_by_time(with_server: CommandLine, box: DeadLetterBox) -> None:
    await box.add()
    await box.add(headers=OTHER)
    await box.advise(7, at=(datetime.now(UTC) - timedelta(days=3)).isoformat())

    options = [
        ("--task", "lollygag:Other"),
        ("--since", "2h"),
        ("--since", (datetime.now(UTC) - timedelta(days=4)).isoformat()),
    ]
    *selected, none = with_server.each(
        [
            *(("dlq", "list", "--json", *each) for each in options),
            ("dlq", "list", "--task", "a:B", "--since", "2100-01-01T00:00:00Z"),
        ]
    )
    found = [[letter["seq"] for letter in json.loads(done.stdout)] for done in selected]
    assert found == [[2], [1, 2], [1, 2, 3]]
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "no dead letters of a:B since 2100-01-01T00:00:00Z\n"


async def test_a_message_that_the_server_gave_up_is_shown_until_it_is_gone(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    given_up = await box.put()
    await box.advise(given_up)
    commands = [("dlq", "list", "--json"), ("dlq", "show", "1"), ("dlq", "list")]
    document, shown, table = with_server.each(commands)
    (letter,) = json.loads(document.stdout)
    assert (letter["task"], letter["id"], letter["args"]) == (NAME, "abc", {"owner_name": "alice"})
    assert f"given up on normal-small after 3 deliveries, message {given_up}" in table.stdout
    assert '             "owner_name": "alice"' in shown.stdout.splitlines()
    await delete_message(box.connection, box.names.tasks_stream, given_up)
    document, shown = with_server.each(commands[:2])
    (letter,) = json.loads(document.stdout)
    assert (letter["task"], letter["id"], letter["args"], letter["errors"]) == (None, None, None, [])
    assert letter["reason"].endswith("(the message is gone)")
    assert shown.returncode == 0
    assert "the message is gone" in " ".join(shown.stdout.split())


async def test_the_table_has_the_latest_and_says_how_many_there_are(
    with_server: CommandLine, box: DeadLetterBox
) -> None:
    for number in range(60):
        await box.add(headers=OTHER if number == 1 else HEADERS)
    default, few, all_of_them, filtered, rare, as_json, few_as_json, wrong, huge = with_server.each(
        [
            ("dlq", "list"),
            ("dlq", "list", "--limit", "2"),
            ("dlq", "list", "--limit", "0"),
            ("dlq", "list", "--task", NAME, "--reason", "OVER"),
            ("dlq", "list", "--task", "lollygag:Other"),
            ("dlq", "list", "--json"),
            ("dlq", "list", "--json", "--limit", "3"),
            ("dlq", "list", "--limit", "-1"),
            ("dlq", "list", "--limit", "9" * 30),
        ]
    )
    assert first_cells(default.stdout) == ["seq", *map(str, range(11, 61))]
    assert default.stderr == "the latest 50 of 60; --limit 0 shows all, --group-by task,error counts\n"
    assert (first_cells(few.stdout), few.stderr.split(";")[0]) == (["seq", "59", "60"], "the latest 2 of 60")
    assert (len(first_cells(all_of_them.stdout)), all_of_them.stderr) == (61, "")
    assert len(first_cells(filtered.stdout)) == 51
    assert filtered.stderr.startswith(f"the latest 50 of {NAME} with the reason 'OVER'; --limit 0 shows all")
    assert (first_cells(rare.stdout), rare.stderr) == (["seq", "2"], "")
    # Scripts rely on it: --json has all of them.
    assert [letter["seq"] for letter in json.loads(as_json.stdout)] == list(range(1, 61))
    assert as_json.stdout == json.dumps(json.loads(as_json.stdout), indent=2, ensure_ascii=False) + "\n"
    assert [letter["seq"] for letter in json.loads(few_as_json.stdout)] == [58, 59, 60]
    assert as_json.stderr == few_as_json.stderr == ""
    assert (wrong.returncode, "-1 must be 0 or more" in wrong.stderr) == (2, True)
    assert huge.stdout == all_of_them.stdout


async def test_dead_letters_are_counted_by_task_and_error(with_server: CommandLine, box: DeadLetterBox) -> None:
    at = datetime(2026, 12, 1, 6, tzinfo=UTC)
    mice, disk = (Failure(kind, "no owner", "", "host-1-small", at) for kind in ("ValueError", "OSError"))
    for number in range(3):
        await box.add(headers=HEADERS | {"Task-Id": f"mine {number}"}, failures=(disk, mice))
    await box.add(failures=(disk,))
    await box.add(headers=OTHER, failures=(mice,))
    await box.advise(7)
    both, table, by_error, by_task, wrong = with_server.each(
        [
            ("dlq", "list", "--group-by", "task,error", "--json"),
            ("dlq", "list", "--group-by", "task,error"),
            ("dlq", "list", "--group-by", "error", "--json"),
            ("dlq", "list", "--group-by", "task", "--json", "--limit", "3"),
            ("dlq", "list", "--group-by", "task,owner"),
        ]
    )
    groups = json.loads(both.stdout)
    assert [(each["task"], each["error"], each["count"], each["seq"], each["id"]) for each in groups] == [
        (NAME, "ValueError", 3, 3, "mine 2"),
        (NAME, "OSError", 1, 4, "abc"),
        ("lollygag:Other", "ValueError", 1, 5, "other"),
        (None, "given up", 1, 6, None),
    ]
    assert list(groups[0]) == ["task", "error", "count", "first", "last", "seq", "id"]
    assert groups[0]["first"] < groups[0]["last"]
    head, first, *_ = table.stdout.splitlines()
    assert head.split() == ["count", "task", "error", "first", "last", "example"]
    assert (first.split()[:3], first.split()[-1]) == (["3", NAME, "ValueError"], "3")
    assert [(each["error"], each["task"], each["count"]) for each in json.loads(by_error.stdout)] == [
        ("ValueError", None, 4),
        ("OSError", None, 1),
        ("given up", None, 1),
    ]
    assert {each["task"]: each["count"] for each in json.loads(by_task.stdout)} == {
        NAME: 1,
        "lollygag:Other": 1,
        None: 1,
    }
    assert (wrong.returncode, "'task,owner' is none of task, error and task,error" in wrong.stderr) == (2, True)


async def test_where_there_is_none_nothing_is_counted(with_server: CommandLine, box: DeadLetterBox) -> None:
    table, document, everything = with_server.each(
        [
            ("dlq", "list", "--group-by", "task"),
            ("dlq", "list", "--group-by", "task", "--json"),
            ("dlq", "list", "--json", "--since", "0001-01-01T00:00:00Z", "--limit", "1"),
        ]
    )
    assert (table.stdout, table.stderr) == ("", "no dead letters\n")
    assert document.stdout == everything.stdout == "[]\n"


def first_cells(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines()]
