"""Malformed messages: each becomes a dead letter with its body untouched, and blocks no message behind it."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

ran: list[int] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


@dataclasses.dataclass
class Owner:
    name: str
    quota: int = 0


@dataclasses.dataclass
class Sync(BaseTask):
    n: int
    owners: list[Owner] = dataclasses.field(default_factory=list)
    size = Size.SMALL

    async def execute(self) -> None:
        ran.append(self.n)


@dataclasses.dataclass
class Picky(BaseTask):
    n: int
    size = Size.SMALL

    def __post_init__(self) -> None:
        raise ValueError(f"{self.n} is no good")

    async def execute(self) -> None:
        ran.append(self.n)


NAME = {"Task-Name": "test:Sync"}
BAD: dict[str, tuple[dict[str, str] | None, bytes, str]] = {
    "an empty body": (NAME, b"", "malformed: the body is empty"),
    "a truncated body": (NAME, b'{"n": 1, "owners": [{"na', "malformed: Input data was truncated"),
    "a body of another shape": (NAME, b"[1]", "malformed: Expected `object`, got `array`"),
    "a field of another type": (NAME, b'{"n": "seven"}', "malformed: Expected `int`, got `str` - at `$.n`"),
    "a nested field of another type": (
        NAME,
        b'{"n": 1, "owners": [{"name": "a"}, {"name": "b", "quota": null}]}',
        "malformed: Expected `int`, got `null` - at `$.owners[1].quota`",
    ),
    "a missing field": (NAME, b"{}", "malformed: Object missing required field `n`"),
    "900 kB of garbage": (NAME, os.urandom(900_000), "malformed: "),
    "900 kB that do not fit": (
        NAME,
        b'{"n": "%s"}' % (b"x" * 900_000),
        "malformed: Expected `int`, got `str` - at `$.n`",
    ),
    "a deeply nested body": (NAME, b"[" * 100_000, "malformed: Expected `object`, got `array`"),
    "deep nesting in a field that nobody knows": (
        NAME,
        b'{"n": 1, "more": %s}' % (b"[" * 100_000 + b"]" * 100_000),
        "malformed: the body is nested too deeply",
    ),
    "bytes that are no UTF-8": (NAME, b'{"n": 1, "owners": [{"name": "\xff"}]}', "malformed: the body is not UTF-8: "),
    "what its own class refuses": (
        {"Task-Name": "test:Picky"},
        b'{"n": 5}',
        "malformed: 5 is no good",
    ),
    "no header at all": (None, b'{"n": 1}', "malformed: the header Task-Name is missing"),
    "headers without a name": ({"Task-Id": "x"}, b'{"n": 1}', "malformed: the header Task-Name is missing"),
    "an empty name": ({"Task-Name": ""}, b'{"n": 1}', "malformed: the header Task-Name is missing"),
    "labels that are no JSON": (NAME | {"Task-Labels": "{oops"}, b'{"n": 1}', "malformed: Task-Labels: "),
    "labels without names": (NAME | {"Task-Labels": "[1]"}, b'{"n": 1}', "malformed: Task-Labels: Expected `object`"),
    "a version that is no number": (NAME | {"Task-Version": "one"}, b'{"n": 1}', "malformed: Task-Version: 'one'"),
    "a time without a zone": (NAME | {"Task-Expires": "2026-01-01"}, b'{"n": 1}', "malformed: Task-Expires: "),
}


async def test_each_bad_message_is_a_dead_letter_with_its_reason_and_the_good_ones_behind_it_run(
    mesh: TaskMesh,
) -> None:
    mesh.register(Sync, Picky)
    messages: list[tuple[Any, bytes]] = []
    for n, (headers, body, _) in enumerate(BAD.values()):
        messages += [(headers, body), (NAME, b'{"n": %d}' % n)]
    sequences = await mesh.publish_by_hand(*messages)
    worker = await mesh.burst(slots=1)
    assert ran == list(range(len(BAD)))
    assert worker.processed == 2 * len(BAD), "no bad message needed a second look"
    letters = {int(letter.headers["Dead-Sequence"]): letter for letter in await mesh.dead_letters()}
    assert len(letters) == len(BAD)
    for sequence, (what, (headers, body, reason)) in zip(sequences[::2], BAD.items(), strict=True):
        letter = letters[sequence]
        assert letter.body == body, what
        assert letter.headers["Dead-Reason"].startswith(reason), what
        assert letter.headers["Dead-Errors"] == "[]", what
        for name, value in (headers or {}).items():
            assert letter.headers[name] == value, what
    terms = await mesh.stored(mesh.namespace.dead_letters_stream, "$JS.EVENT.ADVISORY")
    assert len(terms) == len(BAD)


async def test_a_bad_message_with_little_room_beside_it_is_a_dead_letter_with_what_fits(mesh: TaskMesh) -> None:
    mesh.register(Sync)
    body = b"x" * (mesh.connection.max_payload - 1_500)
    await mesh.publish_by_hand((NAME | {"Task-Labels": '{"a": "%s"}' % ("b" * 1_000)}, body))
    await mesh.burst()
    (letter,) = await mesh.dead_letters()
    assert letter.body == body
    assert letter.headers["Task-Name"] == "test:Sync"
    assert "Task-Labels" not in letter.headers
    assert letter.headers["Dead-Reason"].startswith("malformed: ")


async def test_a_bad_message_that_fills_the_servers_limit_stays_and_the_worker_says_why(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.allows_residue = True
    mesh.register(Sync)
    await mesh.publish_by_hand((NAME, b"x" * (mesh.connection.max_payload - 50)), (NAME, b'{"n": 1}'))
    await mesh.burst()
    assert ran == [1]
    assert await mesh.waiting() == 1
    assert "message 1 (test:Sync) is too large" in caplog.text
    assert "raise max_payload on the server" in caplog.text


async def test_bad_messages_that_arrive_at_an_idle_worker_do_not_disturb_it(mesh: TaskMesh) -> None:
    mesh.register(Sync)
    async with mesh.working(slots=1):
        for n in range(3):
            await mesh.publish_by_hand((NAME, b"?"), (NAME, b'{"n": %d}' % n))
            await wait_until(lambda expected=n: expected in ran, description="the good one ran")  # type: ignore[misc]
    assert len(await mesh.dead_letters()) == 3
