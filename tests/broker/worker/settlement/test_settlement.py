"""Failed tasks on a real server: when they come back, how often, and what is kept of them in the end."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import ClassVar, cast

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import ServerClock, boottime
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, TaskRetryRequestedError, UnretryableError
from diracx.tasks.plumbing.execution.job import Retry
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.leases import LeaseKeeper
from diracx.tasks.testing import wait_until
from support.deliveries import FakeMessage, first_delivery, settlement_of
from support.mesh import TaskMesh

BASE = 0.2
began: list[float] = []
seen: list[tuple[int, BaseException]] = []
raised: list[BaseException] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    for record in (began, seen, raised):
        record.clear()


@dataclasses.dataclass
class Fails(BaseTask):
    """Fails `times` times, then succeeds."""

    times: int = 1000
    size = Size.SMALL
    retry_policy: ClassVar[RetryPolicyBase] = ExponentialBackoff(base_delay_seconds=BASE, max_retries=3)
    dlq_eligible = True

    async def execute(self) -> None:
        began.append(time.time())
        if len(began) <= self.times:
            raise self.error(f"failure {len(began)}")

    error = ValueError


class FailsUnkept(Fails):
    dlq_eligible = False


class AsksAgain(Fails):
    error = TaskRetryRequestedError  # type: ignore[assignment]


class Hopeless(Fails):
    error = UnretryableError  # type: ignore[assignment]


class Watching(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        seen.append((attempt, exception))
        return datetime.now(UTC) if attempt < 2 else None


class BrokenPolicy(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        raise RuntimeError("the policy is broken: \udc80")


async def run_to_the_end(mesh: TaskMesh, task: BaseTask) -> None:
    mesh.register(type(task))
    await task.schedule(labels={"a": "b"})
    async with mesh.working():
        await wait_until(lambda: _nothing_waits(mesh), description="it has ended")


async def test_an_exponential_backoff_gives_exactly_its_retries_none_of_them_early(mesh: TaskMesh) -> None:
    await run_to_the_end(mesh, Fails())
    assert len(began) == 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    for gap, delay in zip(gaps, (BASE, 2 * BASE, 4 * BASE), strict=True):
        assert gap >= delay
    (letter,) = await mesh.dead_letters()
    assert letter.subject == f"{mesh.namespace.name}.dlq.test.Fails.1"
    assert letter.body == b'{"times":1000}'
    assert letter.headers["Dead-Executions"] == "4"
    assert letter.headers["Dead-Reason"] == "no retry is left after 4 executions: ValueError: failure 4"
    assert letter.headers["Task-Labels"] == '{"a":"b"}'
    errors = json.loads(letter.headers["Dead-Errors"])
    assert [error["message"] for error in errors] == ["failure 1", "failure 2", "failure 3", "failure 4"]
    assert all("in execute" in error["traceback"] for error in errors)
    (advisory,) = await mesh.stored(mesh.namespace.dead_letters_stream, "$JS.EVENT.ADVISORY")
    assert json.loads(advisory.body)["deliveries"] == 4, "the server itself waited out each delay"


async def test_a_task_that_recovers_leaves_nothing_behind(mesh: TaskMesh) -> None:
    await run_to_the_end(mesh, Fails(times=2))
    assert len(began) == 3
    assert not await mesh.dead_letters()


async def test_what_is_not_eligible_ends_with_one_warning_and_no_dead_letter(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    await run_to_the_end(mesh, FailsUnkept())
    assert len(began) == 4
    assert not await mesh.dead_letters()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [
        "dropped test:FailsUnkept (message 1): no retry is left after 4 executions: ValueError: failure 4"
    ]
    assert caplog.text.count("in execute") == 1, "its last failure does not go with it"


async def test_the_line_of_a_dead_task_has_the_traceback_of_its_last_failure(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    await run_to_the_end(mesh, Hopeless())
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.funcName == "_dead_letter"
    assert "UnretryableError: failure 1" in (record.exc_text or "")


async def test_at_level_debug_each_end_has_a_duration(mesh: TaskMesh, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "diracx.tasks.worker")
    await run_to_the_end(mesh, Fails(times=1))
    ends = re.findall(r"(\w+): test:Fails \(message 1\) in \d+\.\d{3} s", caplog.text)
    assert ends == ["Retry", "done"]


async def test_the_policy_sees_the_very_exception_and_the_retries_already_made(mesh: TaskMesh) -> None:
    class Watched(Fails):
        retry_policy = Watching()

        async def execute(self) -> None:
            raised.append(LookupError("this one"))
            raise raised[-1]

    await run_to_the_end(mesh, Watched())
    assert [attempt for attempt, _ in seen] == [0, 1, 2]
    assert all(given is thrown for (_, given), thrown in zip(seen, raised, strict=True))


async def test_a_policy_that_always_gives_the_same_time_sees_each_failure_counted(mesh: TaskMesh) -> None:
    class Fixed(RetryPolicyBase):
        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
            seen.append((attempt, exception))
            return datetime(1970, 1, 1, tzinfo=UTC) if attempt < 4 else None

    class Watched(Fails):
        retry_policy = Fixed()

    await run_to_the_end(mesh, Watched())
    assert [attempt for attempt, _ in seen] == [0, 1, 2, 3, 4]
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Executions"] == "5"
    errors = json.loads(letter.headers["Dead-Errors"])
    assert [error["message"] for error in errors] == [f"failure {n}" for n in range(1, 6)]


async def test_an_outage_between_the_record_and_the_nak_of_a_retry_counts_one_failure(mesh: TaskMesh) -> None:
    refused: list[timedelta] = []

    class NakRefusedOnce(Delivery):
        def nak(self, delay: timedelta = timedelta(0)) -> None:
            refused.append(delay)
            if len(refused) == 1:
                outage.connected = False
                raise ServerUnavailableError("an outage")

    outage = Outage(mesh.connection, mesh.connection.clock)
    (sequence,) = await mesh.publish_by_hand((None, b""))
    stored = await first_delivery(mesh, sequence)
    lease = LeaseKeeper(timedelta(seconds=30)).take(
        NakRefusedOnce(mesh.connection, FakeMessage(stored.reply), boottime())
    )
    assert lease is not None
    store = AttemptStore(mesh.attempts)
    settlement = settlement_of(mesh, store, cast(Connection, outage))
    attempts = await store.read(lease.delivery)
    failure = Failure.of(ValueError("once"), "here")
    await settlement.settle(lease, "test:Fails", attempts, Retry(datetime.now(UTC), failure))
    assert len(refused) == 2
    assert (await store.read(lease.delivery)).record.failed == 1
    mesh.allows_residue = True


@dataclasses.dataclass
class Outage:
    """Stands in for a connection that is down until somebody waits for it."""

    connection: Connection
    clock: ServerClock
    connected: bool = True

    @property
    def is_connected(self) -> bool:
        return self.connected

    async def wait_connected(self, timeout: float) -> bool:
        self.connected = True
        return True


async def test_more_errors_than_a_message_of_the_server_can_hold_lose_the_oldest_tracebacks(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    class Loud(Fails):
        retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=25)
        error = NoisyError  # type: ignore[assignment]

    await run_to_the_end(mesh, Loud())
    assert len(began) == 26
    assert "unsettled" not in caplog.text
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Executions"] == "26"


async def test_ordinary_tracebacks_fit_a_server_with_a_small_max_payload(namespace: str) -> None:
    class Ordinary(Fails):
        retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=9)

        async def execute(self) -> None:
            began.append(time.time())
            deep(len(began), 40)

    with EmbeddedServer(extra_config="max_payload: 64KB") as server:
        async with TaskMesh.open(server.url, namespace) as mesh:
            mesh.register(Ordinary)
            await Ordinary().schedule()
            async with mesh.working():
                await wait_until(lambda: _nothing_waits(mesh), description="it has ended")
            (letter,) = await mesh.dead_letters()
    errors = json.loads(letter.headers["Dead-Errors"])
    assert [error["message"] for error in errors] == [f"failure {n}" for n in range(1, 11)]
    assert errors[0]["traceback"] == ""
    assert "in deep" in errors[-1]["traceback"]


def deep(number: int, levels: int) -> None:
    """Fail below many frames."""
    if levels == 0:
        raise ValueError(f"failure {number}")
    (lambda: deep(number, levels - 1))()


class NoisyError(Exception):
    """Its message takes six bytes for each character of its record."""

    def __str__(self) -> str:
        return "\0" * 20_000


async def test_an_unretryable_error_ends_at_once(mesh: TaskMesh) -> None:
    await run_to_the_end(mesh, Hopeless())
    assert len(began) == 1
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"].startswith("it cannot be retried after 1 execution: ")


async def test_a_requested_retry_is_told_without_a_traceback_and_the_policy_still_counts(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await run_to_the_end(mesh, AsksAgain())
    assert len(began) == 4
    assert "Traceback" not in caplog.text
    (letter,) = await mesh.dead_letters()
    assert [error["traceback"] for error in json.loads(letter.headers["Dead-Errors"])] == [""] * 4


async def test_a_policy_that_fails_counts_as_no_retry_and_the_dead_letter_says_so(mesh: TaskMesh) -> None:
    class Misjudged(Fails):
        retry_policy = BrokenPolicy()

    await run_to_the_end(mesh, Misjudged())
    assert len(began) == 1
    (letter,) = await mesh.dead_letters()
    assert "its retry policy failed (RuntimeError: the policy is broken: \\udc80)" in letter.headers["Dead-Reason"]


async def test_a_task_that_runs_too_long_has_failed(mesh: TaskMesh) -> None:
    class TooLong(Fails):
        timeout_seconds = 0.05
        retry_policy = Watching()

        async def execute(self) -> None:
            began.append(time.time())
            await never()

    await run_to_the_end(mesh, TooLong())
    assert len(began) == 3
    assert all(isinstance(error, TimeoutError) for _, error in seen)
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"].endswith("TimeoutError: ran longer than timeout_seconds=0.05")


async def test_a_dead_letter_keeps_an_error_in_many_scripts_as_it_is(mesh: TaskMesh) -> None:
    class Polyglot(Fails):
        retry_policy = Watching()

        async def execute(self) -> None:
            raise ValueError("Größe 大きさ 😀\r\nDead-Reason: forged\x00\udc80")

    await run_to_the_end(mesh, Polyglot())
    (letter,) = await mesh.dead_letters()
    error = json.loads(letter.headers["Dead-Errors"])[-1]
    assert error["message"] == "Größe 大きさ 😀\r\nDead-Reason: forged\x00\\udc80"
    assert "Größe 大きさ 😀 Dead-Reason: forged" in letter.headers["Dead-Reason"]
    assert letter.headers["Dead-Errors"].isascii()


async def test_a_message_that_the_server_forgot_to_delay_waits_for_its_retry_and_counts_on(mesh: TaskMesh) -> None:
    """As after a kill of the server: the record says more than the delivery does."""
    not_before = datetime.now(UTC) + timedelta(seconds=0.7)

    class Watched(Fails):
        retry_policy = Watching()

    mesh.register(Watched)
    await Watched(times=1).schedule()
    delivery = await first_delivery(mesh, 1)
    store = AttemptStore(mesh.attempts)
    await store.fail(await store.read(delivery), Failure.of(ValueError("before"), "another"), not_before)
    async with mesh.working():
        await wait_until(lambda: _nothing_waits(mesh), description="it has ended")
    assert [attempt for attempt, _ in seen] == [1]
    assert began[0] >= not_before.timestamp()


async def test_a_message_that_is_exhausted_is_never_executed_again(mesh: TaskMesh) -> None:
    mesh.register(Fails)
    await Fails(times=0).schedule()
    store = AttemptStore(mesh.attempts)
    attempts = await store.read(await first_delivery(mesh, 1))
    await store.exhaust(attempts, Failure.of(ValueError("the last"), "another"), "no retry is left")
    await mesh.burst()
    assert not began
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"] == "no retry is left"
    assert json.loads(letter.headers["Dead-Errors"])[0]["message"] == "the last"


async def test_a_poison_message_becomes_a_dead_letter_whether_eligible_or_not(mesh: TaskMesh) -> None:
    mesh.register(FailsUnkept)
    await FailsUnkept(times=0).schedule()
    store = AttemptStore(mesh.attempts)
    for _ in range(5):
        await store.begin(await store.read(await first_delivery(mesh, 1)))
    await mesh.burst()
    assert not began
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"] == "poison: 5 executions began and never ended"
    assert letter.headers["Dead-Executions"] == "5"


async def test_a_dead_letter_that_finds_no_room_keeps_its_task_and_is_stored_once_there_is_some(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    class FailsForGood(Fails):
        retry_policy = ExponentialBackoff(max_retries=0)

    mesh.register(FailsForGood)
    await mesh.set_ack_wait(1)
    await mesh.edit_stream(mesh.namespace.dead_letters_stream, max_bytes=100)
    await FailsForGood().schedule()
    async with mesh.working():
        refused = f"was refused by {mesh.namespace.dead_letters_stream}: "
        await wait_until(lambda: caplog.text.count(refused) >= 2, description="it was refused, twice")
        assert await mesh.waiting() == 1
        await mesh.edit_stream(mesh.namespace.dead_letters_stream, max_bytes=1_000_000)
        await wait_until(lambda: _nothing_waits(mesh), description="it is a dead letter")
    assert len(began) == 1
    (letter,) = await mesh.dead_letters()
    assert len(json.loads(letter.headers["Dead-Errors"])) == 1


async def never() -> None:
    await asyncio.Event().wait()


async def _nothing_waits(mesh: TaskMesh) -> bool:
    return await mesh.waiting() == 0
