"""Traces over more than one hop: through a scheduler, and through the execution thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.thread import executing
from diracx.tasks.plumbing.groups.enqueuer import GroupEnqueuer
from diracx.tasks.plumbing.groups.records import callback_id
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.observability.telemetry import current_traceparent
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.testing import wait_until
from support import spawned
from support.measuring import Measured, context_of, links_of, measuring, parent_of
from support.mesh import END_SECONDS, TaskMesh
from support.scheduling import SchedulingMesh, Ticks


class Child(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        """Nothing."""


class Medium(BaseTask):
    """Spawns, from a thread of its own."""

    async def execute(self) -> None:
        with trace.get_tracer("author", tracer_provider=_author[-1].tracers).start_as_current_span("author's own"):
            await Child().schedule()


_author: list[Measured] = []


@pytest.fixture
def measured() -> Iterator[Measured]:
    with measuring() as measured:
        _author.append(measured)
        yield measured
    _author.clear()


@pytest.fixture
async def measured_mesh(measured: Measured, mesh: TaskMesh) -> TaskMesh:
    """A mesh that was made after telemetry was bound."""
    return mesh


async def test_each_occurrence_of_a_schedule_is_a_trace_of_its_own(measured: Measured, measured_mesh: TaskMesh) -> None:
    measured_mesh.register(Ticks)
    measured_mesh.allows_residue = True
    async with SchedulingMesh(measured_mesh.broker).scheduling() as scheduler:
        await wait_until(measured_mesh.waiting, description="one has fallen due", timeout=20)
        await measured_mesh.burst(slots=1)
    created, published = measured.named("create"), measured.named("publish")
    assert len(created) == scheduler.published > 2
    assert len({context_of(span)[0] for span in created}) == len(created)
    assert all(parent_of(span) is None for span in (*created, *published))
    assert [link for span in published for link in links_of(span)] == [context_of(span) for span in created]
    processed = measured.named("process")[0]
    (origin,) = (span for span in created if context_of(span) == parent_of(processed))
    assert links_of(processed) == [context_of(origin)]
    assert origin.attributes is not None
    assert processed.attributes is not None
    assert origin.attributes["messaging.message.id"] == processed.attributes["messaging.message.id"]
    namespace = measured_mesh.namespace.name
    assert (origin.kind, origin.name) == (SpanKind.PRODUCER, f"create {namespace}.periodic.test.Ticks.*")
    assert origin.attributes["messaging.operation.type"] == "create"
    first = published[0]
    assert (first.kind, first.name) == (SpanKind.CLIENT, f"publish {namespace}.periodic.>")
    assert first.attributes is not None
    assert first.attributes["messaging.batch.message_count"] == len(first.links)
    assert first.attributes["messaging.operation.type"] == "send"
    _, points = measured.metric("messaging.client.sent.messages")
    assert sum(point.value for point in points) == len(created)
    _, points = measured.metric("messaging.client.operation.duration")
    assert sum(point.count for point in points) == len(published)


async def test_a_write_that_the_server_refuses_is_an_error_on_its_span(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Ticks)
    await measured_mesh.edit_stream(measured_mesh.namespace.later_stream, max_msg_size=64)
    async with SchedulingMesh(measured_mesh.broker).scheduling():
        await wait_until(lambda: measured.named("publish"), description="it has tried", timeout=20)
    refused = measured.named("publish")[0]
    assert refused.status.status_code is StatusCode.ERROR
    _, points = measured.metric("messaging.client.operation.duration")
    assert points[0].attributes["error.type"] == "ApiError"


async def test_a_trace_reaches_the_tasks_that_a_task_on_its_own_thread_submits(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Medium, Child)
    await Medium().schedule()
    resources = Resources()
    settings = WorkerSettings(size=Size.MEDIUM, max_concurrent_tasks=1, burst=True)
    mesh = measured_mesh
    async with executing(Size.MEDIUM, resources, asyncio.new_event_loop) as thread:
        assert thread is not None
        worker = Worker(
            mesh.connection, mesh.namespace, mesh.registry, resources.injector, settings, invoke=thread.invoke
        )
        async with asyncio.timeout(END_SECONDS):
            await worker.run()
    await mesh.burst()
    (process, child), (publish, spawn) = measured.named("process"), measured.named("publish")
    (own,) = measured.named("author's own")
    assert len({context_of(span)[0] for span in measured.spans}) == 1
    assert parent_of(process) == context_of(publish)
    assert parent_of(own) == context_of(process)
    assert parent_of(spawn) == context_of(own)
    assert parent_of(child) == context_of(spawn)


async def test_children_and_callback_of_a_group_continue_the_trace_of_their_parent(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    mesh = measured_mesh
    mesh.allows_residue = True
    mesh.register(*spawned.ALL)
    parent = await spawned.Parent((2, 1_001)).schedule()
    await mesh.burst()
    (process,), (_, *spawns) = measured.named("process"), measured.named("publish")
    assert [span.name for span in spawns] == [f"publish {mesh.namespace.name}.group.*"] * 2
    assert [parent_of(span) for span in spawns] == [context_of(process)] * 2
    # Those of the second group are stored by workers.
    await GroupEnqueuer(mesh.connection, mesh.namespace).store_part(f"{parent}-1", 1)
    for number, span in enumerate(spawns):
        group = f"{parent}-{number}"
        trace_id, span_id = context_of(span)
        held = await spawned.later(mesh, mesh.namespace.delayed_subject(callback_id(group)))
        assert held is not None
        children = await mesh.stored(mesh.namespace.tasks_stream)
        tasks = [held, *(each for each in children if each.headers.get("Task-Group", "").startswith(group))]
        assert len(tasks) == (3, 2)[number]
        # Without its flags, which differ between versions of OpenTelemetry.
        assert {each.headers["traceparent"][:-3] for each in tasks} == {f"00-{trace_id:032x}-{span_id:016x}"}
        assert span.attributes is not None
        assert span.attributes["messaging.message.id"] == group
    _, points = measured.metric("messaging.client.sent.messages")
    assert sum(point.value for point in points) == 3


async def test_a_group_keeps_its_trace_where_nothing_is_measured(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    mesh.register(*spawned.ALL)
    current_traceparent.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    group = await mesh.broker.spawn([spawned.Child(0)], spawned.After())
    (child,) = await mesh.stored(mesh.namespace.tasks_stream)
    held = await spawned.later(mesh, mesh.namespace.delayed_subject(callback_id(group)))
    assert held is not None
    assert child.headers["traceparent"] == held.headers["traceparent"] == current_traceparent.get()


async def test_a_delayed_task_keeps_its_trace_and_its_wait_starts_when_it_is_due(
    measured: Measured, measured_mesh: TaskMesh
) -> None:
    measured_mesh.register(Child)
    due = datetime.now(UTC) + timedelta(seconds=1)
    await Child().schedule(at_time=due)
    await wait_until(measured_mesh.waiting, description="it has fallen due", timeout=20)
    await measured_mesh.burst()
    (publish,), (process,) = measured.named("publish"), measured.named("process")
    assert publish.name == f"publish {measured_mesh.namespace.name}.delayed.*"
    assert links_of(process) == [context_of(publish)]
    _, (wait,) = measured.metric("diracx.tasks.queue.wait")
    # The server's time is known to within half a round trip.
    assert 0 <= wait.sum <= datetime.now(UTC).timestamp() - due.timestamp() + 2
