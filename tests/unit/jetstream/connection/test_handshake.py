"""The prefix under which a server has JetStream for this user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from diracx.tasks.plumbing.jetstream.connection.handshake import find_jetstream
from diracx.tasks.plumbing.jetstream.errors import (
    ApiError,
    JetStreamUnavailableError,
    NoLeaderError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)

DENIED = PermissionDeniedError("publish", "s")


async def found(answers: Mapping[str, Exception | None]) -> tuple[str, bool]:
    """The outcome for a server that fails so for each prefix; None: it answers."""

    async def api(subject_suffix: str, *, prefix: str, timeout: float) -> dict[str, Any]:
        assert (subject_suffix, timeout) == ("INFO", 5.0)
        if (failure := answers[prefix]) is not None:
            raise failure
        return {}

    return await find_jetstream(api, list(answers), "nats://host", 5.0)


@pytest.mark.parametrize(
    "refusal", [DENIED, NoRespondersError("s"), RequestTimeoutError("s", 5), ApiError(503, 10039, "d")]
)
async def test_the_first_prefix_that_answers_is_taken(refusal: Exception) -> None:
    assert await found({"$JS.API": None}) == ("$JS.API", True)
    assert await found({"$JS.API": refusal, "A.API": refusal, "B.API": None}) == ("B.API", True)


async def test_a_user_who_may_not_ask_keeps_the_usual_prefix() -> None:
    assert await found({"$JS.API": DENIED, "A.API": NoRespondersError("s")}) == ("$JS.API", False)


@pytest.mark.parametrize("failure", [NoLeaderError("s", 10), RequestTimeoutError("s", 10)])
async def test_a_user_who_may_ask_under_another_prefix_is_told_that_no_leader_answers_there(failure: Exception) -> None:
    with pytest.raises(JetStreamUnavailableError) as caught:
        await found({"$JS.API": DENIED, "A.API": failure})
    assert str(caught.value).startswith("JetStream of nats://host does not answer: no ")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (NoRespondersError("s"), "nats://host has no JetStream: start it with -js; or if its account imports"),
        (
            RequestTimeoutError("s", 5),
            "JetStream of nats://host does not answer: no reply from s within 5 s: the server ",
        ),
        (ApiError(503, 10039, "d"), "no JetStream on nats://host for this user: JetStream says: d"),
    ],
)
async def test_without_an_answer_the_failure_of_the_usual_prefix_is_told(failure: Exception, words: str) -> None:
    with pytest.raises(JetStreamUnavailableError) as caught:
        await found({"$JS.API": failure, "A.API": DENIED})
    assert str(caught.value).startswith(words)


async def test_a_prefix_where_nobody_answers_is_named() -> None:
    with pytest.raises(JetStreamUnavailableError) as caught:
        await found({"$JS.hbu.API": NoRespondersError("s")})
    assert str(caught.value).startswith(
        "nats://host has no JetStream under $JS.hbu.API: correct the domain or the prefix"
    )
    assert "--js-domain" in str(caught.value)


async def test_a_user_who_may_not_receive_replies_is_told_at_once() -> None:
    with pytest.raises(PermissionDeniedError):
        await found({"$JS.API": PermissionDeniedError("subscription", "s"), "A.API": None})
