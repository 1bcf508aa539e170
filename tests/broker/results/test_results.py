"""Results that a worker keeps on a real server, and a broker reads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import (
    ResultIsMissingError,
    TaskFailedError,
)
from diracx.tasks.plumbing.jetstream.errors import MESSAGE_TOO_LARGE, ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.results.store import ResultStore
from diracx.tasks.plumbing.results.waiting import ResultReader
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.plumbing.wire.ending import Ending, Status
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.names import escape
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh
from support.result_tasks import LONG, Dies, Fails, Keeps, Large, NoJson, Returns


def bucket(mesh: TaskMesh) -> Bucket:
    return Bucket(mesh.connection, mesh.namespace.results_bucket)


async def test_a_result_that_is_there_is_returned_at_once_and_as_often_as_it_is_asked_for(mesh: TaskMesh) -> None:
    mesh.register(Keeps)
    task_id = await Keeps({"owners": ["alice"], "n": 1.0}).schedule()
    await mesh.burst()
    for timeout in (0, 5, None):
        assert await mesh.broker.result(task_id, timeout) == {"owners": ["alice"], "n": 1.0}


async def test_nothing_there_is_an_error_in_time_that_says_what_it_may_be(mesh: TaskMesh) -> None:
    mesh.register(Returns)
    unkept = await Returns().schedule()
    await mesh.burst()
    for task_id, timeout, within in ((unkept, 0, "now"), (unkept, 0.01, r"within 0\.01 s"), ("never", 0, "now")):
        with pytest.raises(
            ResultIsMissingError, match=f"^no result of {task_id}: nothing is there {within}: "
        ) as raised:
            await mesh.broker.result(task_id, timeout)
        assert raised.value.id == task_id
    with pytest.raises(ValueError, match="timeout is -1; give seconds"):
        await mesh.broker.result(unkept, -1)


async def test_the_error_of_a_task_is_raised_where_its_result_is_asked_for(mesh: TaskMesh) -> None:
    mesh.register(Fails, Dies)
    dropped, dead = await mesh.broker.submit_many([Fails(), Dies("full\nand more")], keep_result=60)
    await mesh.burst()
    for task_id, task, message in ((dropped, "test:Fails", "full"), (dead, "test:Dies", "full\nand more")):
        with pytest.raises(TaskFailedError) as raised:
            await mesh.broker.result(task_id, 0)
        error = raised.value
        assert (error.id, error.task, error.status, error.message) == (task_id, task, "failed", message)
        assert error.type == "support.result_tasks.DiskError"
        assert "in execute" in error.traceback
    assert len(await mesh.dead_letters()) == 1


async def test_a_task_that_expires_or_is_no_task_has_failed_for_whoever_waits(mesh: TaskMesh) -> None:
    mesh.register(Returns)
    past = "2020-01-01T00:00:00Z"
    keep = {"Task-Name": "test:Returns", "Task-Keep-Result": "60"}
    _, _, number, _ = await mesh.publish_by_hand(
        (keep | {"Task-Id": "late", "Task-Expires": past}, b"{}"),
        (keep | {"Task-Id": "malformed"}, b"[]"),
        (keep, b"{}"),
        (keep | {"Task-Id": "odd", "Task-Keep-Result": "nan"}, b"{}"),
    )
    await mesh.burst()
    assert await mesh.broker.result(str(number), 0) == 1
    with pytest.raises(TaskFailedError, match="expired at 2020") as late:
        await mesh.broker.result("late", 0)
    assert (late.value.status, late.value.type) == ("expired", "TaskExpiredError")
    with pytest.raises(TaskFailedError, match="malformed") as malformed:
        await mesh.broker.result("malformed", 0)
    assert (malformed.value.status, malformed.value.traceback) == ("failed", "")
    with pytest.raises(ResultIsMissingError):
        await mesh.broker.result("odd", 0)
    assert len(await mesh.dead_letters()) == 2


async def test_a_value_that_cannot_be_kept_leaves_the_task_succeeded_and_says_why(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Large, NoJson)
    most = mesh.connection.max_payload
    large, odd = await mesh.broker.submit_many([Large(most), NoJson()], keep_result=60)
    async with mesh.working() as worker:
        await wait_until(lambda: worker.processed == 2, description="both have run", timeout=20)
    with pytest.raises(
        ResultIsMissingError, match=rf"not kept: its record has \d+ bytes, over the {most - 512} that fit"
    ):
        await mesh.broker.result(large, 0)
    with pytest.raises(ResultIsMissingError, match=r"not kept: the value at \$\['share'\] is nan"):
        await mesh.broker.result(odd, 0)
    lines = [record.getMessage() for record in caplog.records if "its result is not kept" in record.getMessage()]
    assert len(lines) == 2
    assert f"test:NoJson ({odd}) has succeeded, but its result is not kept: the value at $['share'] is nan" in lines[1]


async def test_a_bucket_that_takes_no_large_value_takes_the_rest(mesh: TaskMesh) -> None:
    mesh.register(Large)
    await mesh.edit_stream(f"KV_{mesh.namespace.results_bucket}", max_msg_size=5_000)
    small, large = await mesh.broker.submit_many([Large(10), Large(6_000)], keep_result=60)
    await mesh.burst()
    assert await mesh.broker.result(small, 0) == "x" * 10
    with pytest.raises(ResultIsMissingError, match="over the largest value of the bucket"):
        await mesh.broker.result(large, 0)


async def test_a_bucket_that_takes_no_traceback_takes_the_error(mesh: TaskMesh) -> None:
    mesh.register(Fails)
    await mesh.edit_stream(f"KV_{mesh.namespace.results_bucket}", max_msg_size=4_000)
    task_id = await Fails("x" * 2_000).schedule(keep_result=60)
    await mesh.burst()
    with pytest.raises(TaskFailedError) as raised:
        await mesh.broker.result(task_id, 0)
    assert (raised.value.message, raised.value.traceback) == ("x" * 2_000, "")


async def test_a_bucket_that_takes_nothing_is_an_error_of_the_server(mesh: TaskMesh) -> None:
    await mesh.edit_stream(f"KV_{mesh.namespace.results_bucket}", max_msg_size=10)
    store = ResultStore(mesh.connection, mesh.namespace, "here")
    with pytest.raises(ApiError) as raised:
        await store.keep(Ending("1", "test:Returns", Status.SUCCEEDED, 1), 60)
    assert raised.value.err_code == MESSAGE_TOO_LARGE


async def test_a_full_bucket_leaves_the_message_unsettled_and_says_so(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Returns)
    await mesh.set_ack_wait(1)
    await mesh.edit_stream(f"KV_{mesh.namespace.results_bucket}", max_bytes=100)
    task_id = await Returns().schedule(keep_result=60)
    async with mesh.working():
        await wait_until(lambda: "is full (maximum bytes exceeded)" in caplog.text, description="the worker says so")
        with pytest.raises(ResultIsMissingError):
            await mesh.broker.result(task_id, 0)
        assert await mesh.waiting() == 1
        await mesh.edit_stream(f"KV_{mesh.namespace.results_bucket}", max_bytes=1 << 20)
        assert await mesh.broker.result(task_id, LONG) == 1
    assert "keep results for a shorter time, or raise its limit with `nats stream edit KV_" in caplog.text


async def test_a_result_ends_with_its_time(mesh: TaskMesh) -> None:
    mesh.register(Returns, Keeps)
    short, long = await Returns().schedule(keep_result=0.5), await Keeps().schedule()
    await mesh.burst()
    stored = {each.key: each.expires_in async for each in bucket(mesh).stored()}
    assert 0 < (stored[long] or 0) <= 60

    async def is_gone() -> bool:
        return await ResultReader(mesh.connection, mesh.namespace).read(short) is None

    await wait_until(is_gone, description="the result has expired", timeout=LONG)
    assert await mesh.broker.result(long, 0) == 1


async def test_a_submission_says_for_how_long_or_else_its_class_does(mesh: TaskMesh) -> None:
    mesh.register(Returns, Keeps)
    ids = [
        await Returns().schedule(),
        await Returns().schedule(keep_result=True),
        await Keeps().schedule(keep_result=7),
        await Keeps().schedule(keep_result=None, at_time=mesh.connection.clock.now()),
    ]
    await mesh.burst()
    stored = {each.key: each.expires_in async for each in bucket(mesh).stored()}
    for task_id, seconds in zip(ids[1:], (86_400, 7, 60), strict=True):
        assert seconds - 5 < (stored.pop(task_id) or 0) <= seconds
    assert not stored


@pytest.mark.parametrize(
    ("keep_result", "error", "text"),
    [
        (0, ValueError, "keep_result is 0; make it more than 0"),
        ("60", TypeError, "keep_result is '60'; make it a number"),
    ],
)
async def test_a_time_that_cannot_be_is_refused_before_anything_is_stored(
    mesh: TaskMesh, keep_result: Any, error: type[Exception], text: str
) -> None:
    mesh.register(Returns)
    with pytest.raises(error, match=text):
        await Returns().schedule(keep_result=keep_result)
    with pytest.raises(error, match=text):
        await mesh.broker.submit_many([Returns()], keep_result=keep_result)
    assert await mesh.waiting() == 0


async def test_a_repeat_replaces_the_result(mesh: TaskMesh) -> None:
    mesh.register(Returns)
    for value in (b'{"value":1}', b'{"value":2}'):
        await mesh.publish_by_hand(({"Task-Name": "test:Returns", "Task-Id": "a b.c", "Task-Keep-Result": "60"}, value))
        await mesh.burst()
    assert await mesh.broker.result("a b.c", 0) == 2
    assert await bucket(mesh).keys() == [escape("a b.c")]


async def test_what_is_no_result_is_told_apart_from_none(mesh: TaskMesh) -> None:
    await bucket(mesh).put("odd", b"by hand", timedelta(minutes=1))
    with pytest.raises(ResultIsMissingError, match=r"what .*_results has there is no result: JSON is malformed"):
        await mesh.broker.result("odd", 0)


class Hourly(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule = IntervalSeconds(3600)
    result_ttl_seconds = 60

    async def execute(self) -> str:
        return "swept"


async def test_an_occurrence_keeps_its_result_by_its_class(mesh: TaskMesh) -> None:
    mesh.register(Hourly)
    headers = Envelope(name="test:Hourly", id="test:Hourly-20270101T000000Z").to_headers()
    await mesh.publish_by_hand((headers, b"{}"))
    await mesh.burst()
    assert await mesh.broker.result("test:Hourly-20270101T000000Z", 0) == "swept"
