"""Dead letters are stored once, whole, and within the limits of the server."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.stream_messages import read_messages
from diracx.tasks.plumbing.wire.envelope import DEAD_LETTER_BYTES
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from support.deliveries import fake_delivery

STORED_NS = 1_790_000_000_000_000_123
AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
FAILURE = Failure("ValueError", "no such owner", "Traceback...", "host-1-small", AT)
HEADERS = {
    "Task-Name": "lollygag:SyncOwnersTask",
    "Task-Id": "abc",
    "Task-Version": "1",
    "Task-Labels": '{"a":"b"}',
    "traceparent": "00-1-2-01",
    "Nats-Msg-Id": "abc",
    "Nats-Stream-Source": "X 1 > > >",
}


def delivery(connection: Connection, stored_ns: int = STORED_NS, **message: Any) -> Delivery:
    fields = {"headers": dict(HEADERS), "data": b'{"owner_name":"alice"}'} | message
    return fake_delivery(connection, 42, delivered=3, stored_ns=stored_ns, **fields)


@dataclass
class StoredLetters:
    """The stream of dead letters."""

    connection: Connection
    names: Namespace

    @property
    def store(self) -> DeadLetterStore:
        return DeadLetterStore(self.connection, self.names)

    async def all(self) -> list[tuple[str, dict[str, str], bytes]]:
        messages = read_messages(self.connection, self.names.dead_letters_stream, ">")
        return [(message.subject, dict(message.headers), message.body) async for message in messages]


@pytest.fixture
def letters(connection: Connection, topology: Namespace) -> StoredLetters:
    return StoredLetters(connection, topology)


async def test_a_dead_letter_is_the_message_with_its_errors(letters: StoredLetters) -> None:
    await letters.store.store(delivery(letters.connection), "no retry\n is left", 4, [FAILURE, FAILURE])
    ((subject, headers, body),) = await letters.all()
    assert subject == f"{letters.names.name}.dlq.lollygag.SyncOwnersTask.42"
    assert body == b'{"owner_name":"alice"}'
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", headers.pop("Dead-At"))
    error = (
        '{"type": "ValueError", "message": "no such owner", "traceback": "Traceback...", '
        '"worker": "host-1-small", "at": "2026-12-01T06:00:00Z"}'
    )
    assert headers == {
        "Task-Name": "lollygag:SyncOwnersTask",
        "Task-Id": "abc",
        "Task-Version": "1",
        "Task-Labels": '{"a":"b"}',
        "traceparent": "00-1-2-01",
        "Dead-Reason": "no retry is left",
        "Dead-Queue": "diracx.tasks.normal.small",
        "Dead-Sequence": "42",
        "Dead-Stored": "1790000000000000123",
        "Dead-Executions": "4",
        "Dead-Errors": f"[{error}, {error}]",
        "Nats-Expected-Last-Subject-Sequence": "0",
    }


async def test_storing_a_dead_letter_twice_leaves_one(letters: StoredLetters) -> None:
    for _ in range(2):
        await letters.store.store(delivery(letters.connection), "over", 1, [FAILURE])
    assert len(await letters.all()) == 1


async def test_a_message_of_the_same_sequence_in_a_stream_created_anew_gets_its_own_dead_letter(
    letters: StoredLetters,
) -> None:
    for stored_ns in (STORED_NS, STORED_NS + 1, STORED_NS + 1):
        await letters.store.store(delivery(letters.connection, stored_ns), "over", 1, [])
    found = await letters.all()
    assert [headers["Dead-Stored"] for _, headers, _ in found] == [str(STORED_NS), str(STORED_NS + 1)]
    assert len({subject for subject, _, _ in found}) == 1


@pytest.mark.parametrize("headers", [None, {"Task-Id": "abc"}, {"Task-Name": ""}, {"Task-Name": "a b.*>:ü"}])
async def test_a_message_without_a_valid_name_gets_a_dead_letter(
    letters: StoredLetters, headers: dict[str, str] | None
) -> None:
    await letters.store.store(delivery(letters.connection, headers=headers), "malformed", 0, [])
    ((subject, stored, body),) = await letters.all()
    assert subject.startswith(f"{letters.names.name}.dlq.")
    assert subject.count(".") == 4
    assert stored["Dead-Errors"] == "[]"
    assert body == b'{"owner_name":"alice"}'


async def test_errors_in_any_script_are_ascii_on_the_wire_and_come_back_whole(letters: StoredLetters) -> None:
    failure = Failure("ValueError", "Größe 大きさ 😀\r\n\x00", "Zeile 1\nZeile 2: ü", "w", AT)
    await letters.store.store(delivery(letters.connection), "Größe 大きさ 😀", 1, [failure])
    ((_, headers, _),) = await letters.all()
    assert headers["Dead-Errors"].isascii()
    (error,) = json.loads(headers["Dead-Errors"])
    assert (error["message"], error["traceback"]) == (failure.message, failure.traceback)
    assert headers["Dead-Reason"] == "Größe 大きさ 😀"


async def test_errors_beyond_the_header_limit_lose_the_oldest_tracebacks_first(letters: StoredLetters) -> None:
    failures = [Failure("ValueError", str(n), "t" * 8_000, "w", AT) for n in range(20)]
    await letters.store.store(delivery(letters.connection), "over", 20, failures)
    ((_, headers, _),) = await letters.all()
    errors = json.loads(headers["Dead-Errors"])
    assert [error["message"] for error in errors] == [str(n) for n in range(20)]
    whole = [bool(error["traceback"]) for error in errors]
    assert whole == sorted(whole)
    assert sum(whole) >= 7


async def test_errors_whose_messages_alone_are_too_long_keep_the_latest(letters: StoredLetters) -> None:
    failures = [Failure("ValueError", f"{n} {'😀' * 1_900}", "t" * 8_000, "w", AT) for n in range(20)]
    await letters.store.store(delivery(letters.connection), "over", 20, failures)
    ((_, headers, _),) = await letters.all()
    errors = json.loads(headers["Dead-Errors"])
    assert errors
    assert errors[-1]["message"].startswith("19 ")


async def test_the_largest_task_has_room_for_the_longest_reason(letters: StoredLetters) -> None:
    body = b"x" * (letters.connection.max_payload - DEAD_LETTER_BYTES)
    headers = HEADERS | {"Task-Name": f"{'c' * 99}:{'T' * 100}", "Task-Labels": json.dumps({"a": "b" * 32_000})}
    await letters.store.store(delivery(letters.connection, data=body, headers=headers), "😀" * 2_000, 9, [FAILURE])
    ((_, stored, kept),) = await letters.all()
    assert kept == body
    assert stored["Task-Name"] == headers["Task-Name"]


async def test_errors_give_way_to_the_payload(letters: StoredLetters) -> None:
    body = b"x" * (letters.connection.max_payload - 3_000)
    failures = [Failure("ValueError", str(n), "t" * 8_000, "w", AT) for n in range(3)]
    await letters.store.store(delivery(letters.connection, data=body), "over", 3, failures)
    ((_, headers, stored),) = await letters.all()
    assert stored == body
    assert [error["traceback"] for error in json.loads(headers["Dead-Errors"])] == ["", "", ""]
    assert headers["Task-Labels"] == '{"a":"b"}'


async def test_too_large_headers_of_the_task_are_dropped_except_its_name_and_id(letters: StoredLetters) -> None:
    headers = HEADERS | {"Task-Labels": json.dumps({"a": "b" * 65_000})}
    await letters.store.store(delivery(letters.connection, headers=headers), "over", 1, [FAILURE])
    ((_, stored, _),) = await letters.all()
    assert {name for name in stored if not name.startswith(("Dead-", "Nats-"))} == {
        "Task-Name",
        "Task-Id",
        "Task-Version",
    }
    assert len(json.loads(stored["Dead-Errors"])) == 1


async def test_a_long_reason_is_cut(letters: StoredLetters) -> None:
    await letters.store.store(delivery(letters.connection), "ü" * 5_000, 1, [])
    ((_, headers, _),) = await letters.all()
    assert headers["Dead-Reason"] == "ü" * 1_000


async def test_a_refusal_names_the_message_the_stream_and_the_servers_reason(letters: StoredLetters) -> None:
    stream = letters.names.dead_letters_stream
    config = (await letters.connection.api(f"STREAM.INFO.{stream}"))["config"]
    await letters.connection.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": 100})
    with pytest.raises(SendTaskError) as caught:
        await letters.store.store(delivery(letters.connection), "over", 1, [])
    assert "message 42 (lollygag:SyncOwnersTask)" in str(caught.value)
    assert stream in str(caught.value)
    assert "maximum bytes exceeded" in str(caught.value)
    assert not await letters.all()
