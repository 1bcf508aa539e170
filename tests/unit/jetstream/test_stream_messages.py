"""A purge without an answer, in a cluster: it is repeated only if the repeat can tell what was removed."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.elections import ELECTION_SECONDS
from diracx.tasks.plumbing.jetstream.errors import ApiError, NoLeaderError, RequestTimeoutError
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject

SILENCE = RequestTimeoutError("$JS.API.STREAM.PURGE.T", 2)
NOTHING = ApiError(404, 10037, "no message found")
PURGED = {"purged": 1}


def message(sequence: int) -> dict[str, Any]:
    body = base64.b64encode(b"{}").decode()
    return {"message": {"subject": "s", "seq": sequence, "time": "2026-01-01T00:00:00Z", "data": body}}


class Answers:
    """Stands for the connection: the answers to its requests, in order."""

    def __init__(self, *answers: Exception | dict[str, Any], in_cluster: bool = True) -> None:
        self.in_cluster = in_cluster
        self._answers = list(answers)
        self.asked: list[str] = []

    async def api(self, suffix: str, *_: Any, **options: Any) -> dict[str, Any]:
        purges = suffix.startswith("STREAM.PURGE")
        assert options.get("repeats", True) is not purges
        assert purges or 0 < options["timeout"] <= ELECTION_SECONDS
        self.asked.append(suffix)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def purge(self, before: int | None = None) -> int:
        return await purge_subject(cast(Connection, self), "T", "s", before=before)


@pytest.mark.parametrize("lost", [SILENCE, NoLeaderError("s", 2)])
async def test_it_is_repeated_while_the_message_is_there(lost: Exception) -> None:
    answers = Answers(lost, message(7), lost, message(7), PURGED)
    assert await answers.purge(before=8) == 1
    assert answers.asked[0] == answers.asked[2] == answers.asked[4] == "STREAM.PURGE.T"


@pytest.mark.parametrize(("left", "before"), [(NOTHING, None), (NOTHING, 8), (message(8), 8)])
async def test_what_may_have_been_removed_is_in_doubt(left: Exception | dict[str, Any], before: int | None) -> None:
    with pytest.raises(RequestTimeoutError):
        await Answers(SILENCE, left).purge(before)


async def test_without_a_cluster_it_is_tried_once() -> None:
    with pytest.raises(RequestTimeoutError):
        await Answers(SILENCE, in_cluster=False).purge()
