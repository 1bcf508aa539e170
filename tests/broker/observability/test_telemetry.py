"""Traces and metrics, recorded in memory; and traces without telemetry."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes, exception_attributes
from opentelemetry.trace import SpanKind, StatusCode

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.observability import log_context
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from support.deliveries import first_delivery, leave_crashes
from support.measuring import Measured, context_of, links_of, measuring, parent_of
from support.mesh import TaskMesh

UPSTREAM = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

tried: list[str] = []


class Child(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        tried.append("child")


class Parent(BaseTask):
    """Fails once; then spawns a child, and works under a span of its own."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=1)

    async def execute(self) -> None:
        tried.append("parent")
        if tried.count("parent") < 2:
            raise ValueError("not yet")
        with trace.get_tracer("author", tracer_provider=_author[-1]).start_as_current_span("author's own"):
            await Child().schedule()


@dataclasses.dataclass
class Robbed(BaseTask):
    """Loses its lock while it executes."""

    n: int
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.n, ttl_ms=2_100)]

    async def execute(self) -> None:
        tried.append("robbed")
        if tried.count("robbed") == 1:
            await _take_away[-1]()


class Spawns(BaseTask):
    """Spawns what nobody executes here."""

    size = Size.SMALL

    async def execute(self) -> None:
        await Large().schedule()


class Large(Child):
    size = Size.LARGE


class Logs(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        logging.getLogger("author").warning("fields: %s", dict(log_context.delivery_fields()))


class NotYetError(Exception):
    """An exception with a module, as most have."""


class Fails(BaseTask):
    """Fails once with a retry, and then for good."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=1)

    async def execute(self) -> None:
        tried.append("fails")
        raise NotYetError(f"no owner {len(tried)}")


class FailsForGood(Fails):
    dlq_eligible = True


class AsksForARetry(Fails):
    async def execute(self) -> None:
        raise TaskRetryRequestedError("the site drains")


_author: list[TracerProvider] = []
_take_away: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    for record in (tried, _author, _take_away):
        record.clear()


@pytest.fixture
def measured() -> Iterator[Measured]:
    with measuring() as measured:
        _author.append(measured.tracers)
        yield measured


@pytest.fixture
async def measured_mesh(measured: Measured, mesh: TaskMesh) -> TaskMesh:
    """A mesh that was made after telemetry was bound."""
    return mesh


async def test_a_submission_its_retry_and_its_children_are_one_trace(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Parent, Child)
    with measured.tracers.get_tracer("web").start_as_current_span("request"):
        task_id = await Parent().schedule()
    await measured_mesh.burst()
    assert tried == ["parent", "parent", "child"]
    (request,), (publish, spawn) = measured.named("request"), measured.named("publish")
    failed, succeeded, child = measured.named("process")
    (own,) = measured.named("author's own")
    assert len({context_of(span)[0] for span in measured.spans}) == 1
    assert parent_of(publish) == context_of(request)
    assert parent_of(failed) == parent_of(succeeded) == context_of(publish)
    assert parent_of(own) == context_of(succeeded)
    assert parent_of(spawn) == context_of(own)
    assert parent_of(child) == context_of(spawn)
    for process, origin in ((failed, publish), (succeeded, publish), (child, spawn)):
        assert links_of(process) == [context_of(origin)]
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ValueError: not yet")
    assert succeeded.status.status_code is StatusCode.UNSET
    for span, kind, name in ((publish, SpanKind.PRODUCER, "publish"), (failed, SpanKind.CONSUMER, "process")):
        subject = f"{measured_mesh.namespace.name}.tasks.normal.small"
        assert (span.kind, span.name) == (kind, f"{name} {subject}")
        assert span.attributes is not None
        assert span.attributes["messaging.system"] == "nats"
        assert span.attributes["messaging.operation.name"] == name
        assert span.attributes["messaging.destination.name"] == subject
        assert span.attributes["messaging.message.id"] == task_id
        assert span.attributes["diracx.tasks.name"] == "test:Parent"
    assert failed.attributes is not None
    assert failed.attributes["diracx.tasks.outcome"] == "retry"
    assert failed.attributes["error.type"] == "ValueError"
    assert failed.attributes["messaging.consumer.group.name"] == "normal-small"


@pytest.mark.parametrize(("task_class", "end"), [(Fails, "discarded"), (FailsForGood, "dead")])
async def test_the_exception_of_each_execution_is_an_event_on_its_span(
    measured: Measured, measured_mesh: TaskMesh, task_class: type[Fails], end: str
) -> None:
    measured_mesh.register(task_class)
    measured_mesh.allows_residue = True
    await task_class().schedule()
    await measured_mesh.burst()
    kind, spans = f"{NotYetError.__module__}.NotYetError", measured.named("process")
    assert [(span.attributes or {})["diracx.tasks.outcome"] for span in spans] == ["retry", end]
    for number, span in enumerate(spans, 1):
        (event,) = span.events
        assert event.attributes is not None
        assert (event.name, event.attributes["exception.type"]) == ("exception", kind)
        assert event.attributes["exception.message"] == f"no owner {number}"
        trace_text = str(event.attributes["exception.stacktrace"])
        assert trace_text.startswith("Traceback (most recent call last)")
        assert "in execute" in trace_text
        # The class as such, not the outcome in place of it: a name with a module is a good type, too.
        assert (span.attributes or {})["error.type"] == kind


async def test_a_retry_that_the_task_asked_for_is_an_event_without_a_stack_trace(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(AsksForARetry)
    await AsksForARetry().schedule()
    await measured_mesh.burst()
    for span in measured.named("process"):
        (event,) = span.events
        assert set(event.attributes or {}) == {"exception.type", "exception.message"}


async def test_an_execution_that_was_not_begun_again_repeats_no_exception(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Fails)
    await Fails().schedule()
    store = AttemptStore(measured_mesh.attempts)
    attempts = await store.read(await first_delivery(measured_mesh, 1))
    await store.exhaust(attempts, Failure.of(NotYetError("the last"), "another"), "no retry is left", dropped=True)
    await measured_mesh.burst()
    (process,) = measured.named("process")
    assert list(process.events) == []


async def test_each_name_of_the_conventions_is_one_that_they_know_and_do_not_deprecate(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Fails)
    await Fails().schedule()
    await measured_mesh.burst()
    known = {
        value
        for module in (messaging_attributes, messaging_metrics, error_attributes, exception_attributes)
        for name, value in vars(module).items()
        if isinstance(value, str) and name.isupper() and f"{name}: Final" in inspect.getsource(module)
    }
    outdated = {
        match[1]
        for module in (messaging_attributes, messaging_metrics, exception_attributes)
        for match in re.finditer(r'Final = "([a-z._]+)"\n"""\nDeprecated', inspect.getsource(module))
    }
    used = {name for span in measured.spans for name in span.attributes or {}}
    used |= {name for span in measured.spans for event in span.events for name in event.attributes or {}}
    used |= measured.metric_names
    ours = {name for name in used if name.startswith("diracx.tasks.")}
    assert used - ours <= known - outdated
    assert len(used - ours) > 10


async def test_the_error_type_of_a_poison_message_is_poison(measured: Measured, measured_mesh: TaskMesh) -> None:
    measured_mesh.register(Child)
    await Child().schedule()
    await leave_crashes(measured_mesh, 1, times=5)
    await measured_mesh.burst()
    (process,) = measured.named("process")
    assert process.attributes is not None
    assert (process.attributes["diracx.tasks.outcome"], process.attributes["error.type"]) == ("dead", "poison")
    _, points = measured.metric("messaging.process.duration")
    assert [point.attributes["error.type"] for point in points] == ["poison"]


async def test_a_message_by_hand_joins_the_trace_in_its_headers_or_starts_one(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Child)
    named = {"Task-Name": "test:Child"}
    await measured_mesh.publish_by_hand(({**named, "traceparent": UPSTREAM}, b"{}"), (named, b"{}"))
    await measured_mesh.burst(slots=1)
    joined, begun = measured.named("process")
    assert f"{context_of(joined)[0]:032x}" == UPSTREAM.split("-")[1]
    assert f"{joined.links[0].context.span_id:016x}" == UPSTREAM.split("-")[2]
    assert (parent_of(begun), list(begun.links)) == (None, [])


async def test_durations_waits_and_counts_are_metrics(measured: Measured, measured_mesh: TaskMesh) -> None:
    measured_mesh.register(Parent, Child)
    await Parent().schedule()
    await measured_mesh.burst()
    unit, points = measured.metric("messaging.process.duration")
    assert unit == "s"
    outcomes = {(point.attributes["diracx.tasks.name"], point.attributes["diracx.tasks.outcome"]) for point in points}
    assert outcomes == {("test:Parent", "retry"), ("test:Parent", "succeeded"), ("test:Child", "succeeded")}
    assert all(0 < point.sum < 10 and point.count == 1 for point in points)
    unit, points = measured.metric("diracx.tasks.queue.wait")
    # First deliveries only.
    assert (unit, sum(point.count for point in points)) == ("s", 2)
    assert sum(point.value for point in measured.metric("messaging.client.consumed.messages")[1]) == 3
    assert sum(point.value for point in measured.metric("messaging.client.sent.messages")[1]) == 2
    assert sum(point.count for point in measured.metric("messaging.client.operation.duration")[1]) == 2
    unit, (lag,) = measured.metric("diracx.tasks.loop.lag")
    assert unit == "s"
    assert lag.count >= 1


async def test_a_lost_lock_is_counted(measured: Measured, measured_mesh: TaskMesh) -> None:
    measured_mesh.register(Robbed)

    async def take_away() -> None:
        entry = await measured_mesh.locks.read("mutex.job.7")
        assert entry is not None
        await measured_mesh.locks.delete("mutex.job.7", entry.revision)
        await asyncio.Event().wait()  # until it is cancelled

    _take_away.append(take_away)
    await Robbed(7).schedule()
    await measured_mesh.burst()
    assert tried == ["robbed", "robbed"]
    _, (point,) = measured.metric("diracx.tasks.lock.lost")
    assert (point.value, dict(point.attributes)) == (
        1,
        {"diracx.tasks.lock.kind": "mutex", "diracx.tasks.lock.object": "job"},
    )


async def test_a_refused_submission_is_an_error_on_its_span(measured: Measured, measured_mesh: TaskMesh) -> None:
    measured_mesh.register(Child)
    await measured_mesh.edit_stream(measured_mesh.namespace.tasks_stream, max_bytes=1)
    with pytest.raises(Exception, match="is full"):
        await Child().schedule()
    (publish,) = measured.named("publish")
    assert publish.status.status_code is StatusCode.ERROR
    assert measured.metric("messaging.client.operation.duration")[1][0].attributes["error.type"] == "SendTaskError"


async def test_without_telemetry_a_trace_continues_in_submitted_tasks(mesh: TaskMesh) -> None:
    mesh.register(Spawns, Large)
    mesh.allows_residue = True
    await mesh.publish_by_hand(({"Task-Name": "test:Spawns", "traceparent": UPSTREAM}, b"{}"))
    await mesh.burst()
    (spawned,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert spawned.headers["traceparent"] == UPSTREAM


async def test_without_telemetry_a_submission_has_no_traceparent(mesh: TaskMesh) -> None:
    mesh.register(Child)
    await Child().schedule()
    (message,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert "traceparent" not in message.headers
    await mesh.burst()


async def test_a_log_line_of_a_task_has_its_name_id_and_attempt(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Logs)
    task_id = await Logs().schedule()
    await mesh.burst()
    expected = {"task": "test:Logs", "id": task_id, "attempt": 1}
    assert f"fields: {expected}" in caplog.messages
