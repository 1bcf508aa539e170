"""What a publisher is told when nothing takes what it publishes, and how long it tries."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    ApiError,
    NoLeaderError,
    NoRespondersError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from diracx.tasks.plumbing.jetstream.publish import publish, until_answered

NOBODY = NoRespondersError("s")
SILENCE = RequestTimeoutError("s", 1)
MISSING = ApiError(404, 10059, "stream not found")
DENIED = PermissionDeniedError("publish", "$JS.API.STREAM.INFO.T")
IN_PROCESS = ApiError(409, 10158, "duplicate message id is in process")
BUSY = ApiError(429, 10210, "batch publish too many inflight")
LEADERLESS = NoLeaderError("$JS.API.STREAM.INFO.T", 1)


class Standing:
    """Stands for the connection: every publish ends with one error, and every look at the stream with one answer."""

    def __init__(self, error: Exception, look: Exception | None, *, in_cluster: bool) -> None:
        self.in_cluster = in_cluster
        self._error = error
        self._look = look
        self.looks = self.tries = 0

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        self.tries += 1
        raise self._error

    async def api(self, suffix: str, *, timeout: float) -> dict[str, Any]:
        assert suffix == "STREAM.INFO.T"
        self.looks += 1
        if self._look is not None:
            raise self._look
        return {}


async def submit(standing: Standing, timeout: float) -> str:
    connection = cast(Connection, standing)

    async def send(seconds: float) -> object:
        return await publish(connection, "s", b"", {}, timeout=seconds)

    with pytest.raises(SendTaskError) as refused:
        await until_answered(connection, "T", "s", send, timeout=timeout)
    return str(refused.value)


@pytest.mark.parametrize(
    ("in_cluster", "error", "look", "text"),
    [
        (False, NOBODY, MISSING, "no stream takes s: create T with `diracx-task-run setup`, or start a worker that"),
        (True, NOBODY, MISSING, "no stream takes s: create T with `diracx-task-run setup`, or start a worker that"),
        (False, NOBODY, DENIED, "no stream takes s: create T with"),
        (True, NOBODY, DENIED, "no leader for 0.5 s, or no stream takes s: look at `nats stream report` and "),
        (True, NOBODY, ApiError(500, 1, "broken"), "no leader for 0.5 s, or no stream takes s: "),
        (True, NOBODY, LEADERLESS, "no leader for 0.5 s: T did not take the task; look at `nats stream report`"),
        (True, NOBODY, SILENCE, "no leader for 0.5 s: T did not take the task; look at `nats stream report`"),
        (False, NOBODY, None, "s did not take the task: T is there without that subject; run `diracx-task-run setup`"),
        (True, NOBODY, None, "s did not take the task: T is there without that subject; run `diracx-task-run setup`"),
        (False, SILENCE, None, "s did not take the task: no reply from s within 1 s"),
        (True, SILENCE, None, "s did not take the task: no reply from s within 0.5 s: there is no leader, or"),
        (True, SILENCE, DENIED, "s did not take the task: no reply from s within 0.5 s: there is no leader, or"),
        (True, SILENCE, LEADERLESS, "no leader for 0.5 s: T did not take the task"),
        (True, SILENCE, MISSING, "no stream takes s: create T with"),
        (True, IN_PROCESS, None, "s did not take the task: no reply from s within 0.5 s: there is no leader, or"),
        (True, IN_PROCESS, LEADERLESS, "no leader for 0.5 s: T did not take the task"),
        (True, BUSY, None, "s did not take the task: JetStream says: batch publish too many inflight"),
    ],
)
async def test_the_text_says_why_and_what_to_do(
    in_cluster: bool, error: Exception, look: Exception | None, text: str
) -> None:
    assert (await submit(Standing(error, look, in_cluster=in_cluster), 0.5)).startswith(text)


@pytest.mark.parametrize("error", [IN_PROCESS, BUSY])
async def test_a_refusal_that_ends_by_itself_is_tried_again_until_the_time_is_over(error: Exception) -> None:
    begun = time.monotonic()
    await submit(Standing(error, None, in_cluster=True), 4)  # the first try has 2 s
    assert time.monotonic() - begun > 3.5


async def test_a_missing_stream_is_told_long_before_the_time_is_over() -> None:
    for in_cluster, look in ((False, MISSING), (False, DENIED), (True, MISSING)):
        begun = time.monotonic()
        await submit(Standing(NOBODY, look, in_cluster=in_cluster), 60)
        assert time.monotonic() - begun < 30


async def test_an_election_elsewhere_is_waited_for_too() -> None:
    # A leaf node is no cluster itself, and asks one.
    standing = Standing(NOBODY, LEADERLESS, in_cluster=False)
    assert (await submit(standing, 2.5)).startswith("no leader for 2.5 s: T did not take")
    assert standing.looks > 1


async def test_what_nobody_takes_is_tried_again_in_a_cluster_only() -> None:
    alone, clustered = (Standing(NOBODY, None, in_cluster=each) for each in (False, True))
    with pytest.raises(NoRespondersError, match=r"^nobody answers on s: no such stream"):
        await publish(cast(Connection, alone), "s", b"", {}, timeout=0.5)
    with pytest.raises(NoRespondersError, match=r"^nobody answered on s for 0\.5 s: its stream has no leader, or is"):
        await publish(cast(Connection, clustered), "s", b"", {}, timeout=0.5)
    assert (alone.tries, clustered.tries > 1) == (1, True)
