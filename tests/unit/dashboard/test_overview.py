"""The totals and the workers of the overview."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from diracx.tasks.dashboard import words
from diracx.tasks.dashboard.pages.overview import totals, worker_groups
from diracx.tasks.dashboard.rendering import Renderer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample
from diracx.tasks.plumbing.operations.status_document import SchedulerStatus, Status, StatusSnapshot, WorkerStatus

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def a_snapshot() -> StatusSnapshot:
    """A mesh with one worker, which settles 50 deliveries a second."""
    worker = WorkerStatus(
        id="node-1-small",
        size=Size.SMALL,
        slots=100,
        busy=7,
        host="node-1",
        pid=1,
        since=NOON,
        per_second=50.0,
        last_pull_seconds=0.1,
    )
    status = Status(
        namespace="diracx",
        server="nats://nats.example.org:4222",
        queues=[],
        delayed=0,
        dead_letters=0,
        locks=0,
        scheduler=SchedulerStatus(leader=None, standbys=[]),
        workers=[worker],
        held=[],
        at=NOON,
        next=None,
    )
    return StatusSnapshot(status=status)


def done(load: Sample | None) -> tuple[str, str]:
    """The total of what was done: its value, and the explanation."""
    return next((value, hint) for name, value, hint in totals(a_snapshot(), load) if name == "done")


def test_what_was_given_back_does_not_count_as_done() -> None:
    queues = {"normal-small": QueueSample(succeeded=40, retried=900), "normal-large": QueueSample(succeeded=2)}
    assert done(Sample(NOON, 20.6, queues, 0, 0, {}, leader=True)) == ("2/s", "over 21 s")
    bounces = {"normal-small": QueueSample(parked=1_000)}
    assert done(Sample(NOON, 30.0, bounces, 0, 0, {}, leader=True)) == ("0/s", "over 30 s")


@pytest.mark.parametrize("load", [None, Sample(NOON, 0.0, {}, 0, 0, {}, leader=True)])
def test_without_figures_of_late_it_is_not_known_what_was_done(load: Sample | None) -> None:
    assert done(load) == (words.NOTHING, "")


def test_the_table_of_workers_calls_deliveries_what_they_are() -> None:
    groups = worker_groups(a_snapshot())
    html = Renderer("", {}).render("overview/workers.html", worker_groups=groups, at=NOON)
    assert '<th scope="col" class="number">deliveries</th>' in html
    assert '<td class="number" data-label="deliveries">50/s</td>' in html


def test_whoever_may_not_ask_the_workers_is_not_told_that_there_are_none() -> None:
    silent = dataclasses.replace(a_snapshot(), workers_asked=False)
    assert ("in flight", "0", "") in totals(silent, None)
    for part in ("workers", "scheduler"):
        variables = {"worker_groups": [], "scheduler": silent.status.scheduler, "asked": False}
        html = Renderer("", {}).render(f"overview/{part}.html", **variables)
        assert "this user may not ask them" in html
        assert "answers" not in html
