"""The alerts of one snapshot, each with the command that mends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED
from diracx.tasks.plumbing.operations.alerts import LEVELS, Alert, alerts_of
from diracx.tasks.plumbing.operations.status_document import (
    DueTasks,
    GoneWorker,
    SchedulerStatus,
    StorageStatus,
    StreamStatus,
)
from diracx.tasks.plumbing.worker.snapshot import HeldTask
from support.snapshots import NOW, a_queue, a_worker, healthy

MEBIBYTE = 1 << 20


def only(**changes: Any) -> Alert:
    """The one alert of a snapshot that differs in this."""
    (alert,) = alerts_of(healthy(**changes))
    return alert


def with_status(**status: Any) -> Alert:
    return only(status=status)


def test_nothing_is_told_where_nothing_is_wrong() -> None:
    assert alerts_of(healthy()) == []


@pytest.mark.parametrize(
    ("stored", "most", "level"),
    [
        (79, 100, None),
        (80, 100, "warning"),
        (98, 100, "warning"),
        (99, 100, "critical"),
        (1_000, None, None),
    ],
)
def test_a_stream_is_nearly_full_at_80_percent_and_full_at_99(stored: int, most: int | None, level: str | None) -> None:
    limit = None if most is None else most * MEBIBYTE
    stream = StreamStatus(name="DIRACX_TASKS", messages=1_000, bytes=stored * MEBIBYTE, max_bytes=limit)
    alerts = alerts_of(healthy(status={"streams": [stream]}))
    assert [alert.level for alert in alerts] == ([] if level is None else [level])
    for alert in alerts:
        assert alert.name == ("stream-full" if level == "critical" else "stream-filling")
        assert f"{stored} MiB of 100 MiB" in alert.text
        assert alert.command == "nats stream edit DIRACX_TASKS --max-bytes=209715200 --force"


def test_a_stream_is_full_when_one_more_message_of_its_kind_does_not_fit() -> None:
    stream = StreamStatus(name="DIRACX_TASKS", messages=9, bytes=9_000, max_bytes=9_999)
    assert with_status(streams=[stream]).name == "stream-full"


def test_a_stream_that_removes_old_messages_is_full_as_a_rule() -> None:
    stream = StreamStatus(name="DIRACX_DLQ", messages=9, bytes=9_999, max_bytes=9_999, refuses=False)
    assert alerts_of(healthy(status={"streams": [stream]})) == []


@pytest.mark.parametrize(
    ("stream", "name", "effect"),
    [
        ("DIRACX_TASKS", "stream-full", "the stream DIRACX_TASKS is full, 100 MiB of 100 MiB: tasks are refused"),
        ("DIRACX_DLQ", "dead-letters-full", "no dead letter can be stored"),
        ("KV_diracx_results", "bucket-full", "the bucket diracx_results is full"),
        ("KV_diracx_locks", "bucket-full", "writes are refused"),
    ],
)
def test_a_full_stream_says_what_no_longer_works(stream: str, name: str, effect: str) -> None:
    limit = 100 * MEBIBYTE
    alert = with_status(streams=[StreamStatus(name=stream, messages=7, bytes=limit, max_bytes=limit)])
    assert (alert.name, alert.level) == (name, "critical")
    assert effect in alert.text
    assert alert.command is not None
    assert stream in alert.command


def test_a_limit_below_what_is_stored_is_raised_beyond_it() -> None:
    stream = StreamStatus(name="DIRACX_TASKS", messages=9, bytes=3_000, max_bytes=1_000)
    assert with_status(streams=[stream]).command == "nats stream edit DIRACX_TASKS --max-bytes=6000 --force"


def test_a_limit_of_messages_counts_too() -> None:
    stream = StreamStatus(name="DIRACX_DLQ", messages=1_000, bytes=9_999, max_bytes=None, max_messages=1_000)
    alert = with_status(streams=[stream])
    assert alert.name == "dead-letters-full"
    assert "1,000 of 1,000 messages" in alert.text
    assert alert.command == "nats stream edit DIRACX_DLQ --max-msgs=2000 --force"


@pytest.mark.parametrize(("used", "name"), [(850, "storage-filling"), (995, "storage-full")])
def test_the_storage_of_the_account_is_watched_where_its_limit_is_known(used: int, name: str) -> None:
    assert with_status(storage=StorageStatus(bytes=used, max_bytes=1_000)).name == name
    assert alerts_of(healthy(status={"storage": StorageStatus(bytes=used, max_bytes=None)})) == []


def test_what_is_missing_is_named_with_setup() -> None:
    first, *others = healthy().status.queues
    queues = [a_queue(first.priority, first.size, missing=True), *others]
    alerts = alerts_of(
        healthy(
            status={"queues": queues, "namespace": "acme"},
            missing=["stream ACME_LATER", "bucket acme_locks", "bucket acme_config", "stream ACME_HISTORY"],
        )
    )
    assert [alert.name for alert in alerts] == [
        "stream-missing",
        "bucket-missing",
        "consumer-missing",
        "history-missing",
    ]
    assert {alert.command for alert in alerts} == {"diracx-task-run setup --namespace acme"}
    assert alerts[0].text == "stream ACME_LATER is missing"
    assert alerts[1].text == "bucket acme_locks, bucket acme_config are missing"
    assert "realtime-small" in alerts[2].text
    assert alerts[3].level == "warning"


def test_consumers_are_not_named_beside_their_stream() -> None:
    queues = [a_queue(priority, size, missing=True) for priority in Priority for size in Size]
    assert only(status={"queues": queues}, missing=["stream DIRACX_TASKS"]).name == "stream-missing"


def test_due_tasks_that_are_not_sourced_are_counted_with_the_reason() -> None:
    alert = only(due=DueTasks(3, "its source was not heard for 12 s"))
    assert (alert.name, alert.level) == ("due-not-sourced", "critical")
    assert alert.text.startswith("3 tasks or more fell due and do not reach DIRACX_TASKS")
    assert alert.text.endswith(": its source was not heard for 12 s")


def test_nobody_leads_is_told_only_where_schedules_are_enabled() -> None:
    nobody = SchedulerStatus(leader=None, standbys=[])
    assert alerts_of(healthy(status={"scheduler": nobody})) == []
    assert alerts_of(healthy(status={"scheduler": nobody}, schedules=0)) == []
    alert = only(status={"scheduler": nobody}, schedules=2)
    assert (alert.name, alert.command) == ("no-scheduler", "diracx-task-run scheduler")
    waiting = only(status={"scheduler": SchedulerStatus(leader=None, standbys=["a"])}, schedules=2)
    assert waiting.command == "diracx-task-run locks list"


def test_a_queue_with_tasks_and_no_worker_of_its_size_is_told_unless_it_is_paused_or_workers_cannot_be_asked() -> None:
    queues = [a_queue(Priority.NORMAL, Size.LARGE, waiting=3), a_queue(Priority.BACKGROUND, Size.LARGE, waiting=1)]
    workers = [a_worker(Size.SMALL), a_worker(Size.MEDIUM)]
    alert = with_status(queues=queues, workers=workers)
    assert (alert.name, alert.command) == ("queue-not-served", "diracx-task-run worker --worker-size large")
    assert alert.text.endswith("3 tasks in normal-large, 1 task in background-large")
    assert alerts_of(healthy(status={"queues": queues, "workers": workers}, workers_asked=False)) == []
    paused = [a_queue(Priority.NORMAL, Size.LARGE, waiting=3, paused_until=NOW + timedelta(hours=1))]
    assert with_status(queues=paused, workers=workers).name == "queue-paused"


def test_parked_tasks_need_a_worker_too() -> None:
    killed = [a_queue(Priority.NORMAL, Size.LARGE, parked=3), a_queue(Priority.BACKGROUND, Size.LARGE, parked=None)]
    alert = with_status(queues=killed, workers=[a_worker(Size.SMALL)])
    assert (alert.name, alert.command) == ("queue-not-served", "diracx-task-run worker --worker-size large")
    assert alert.text.endswith("and tasks wait: 3 tasks in normal-large (3 parked)")
    both = [a_queue(Priority.NORMAL, Size.LARGE, waiting=2, parked=1)]
    assert with_status(queues=both, workers=[]).text.endswith("3 tasks in normal-large (1 parked)")
    assert alerts_of(healthy(status={"queues": killed, "workers": [a_worker(Size.LARGE)]})) == []


def test_paused_queues_share_one_command() -> None:
    queues = [
        a_queue(Priority.NORMAL, Size.LARGE, paused_until=UNTIL_RESUMED),
        a_queue(Priority.NORMAL, Size.SMALL, paused_until=NOW),
    ]
    alert = with_status(queues=queues)
    assert alert.text == "paused: normal-large until it is resumed, normal-small until 2026-12-01T06:00:00Z"
    assert alert.command == "diracx-task-run resume normal-large normal-small"


def test_when_all_queues_are_paused_they_are_not_listed() -> None:
    queues = [a_queue(priority, size, paused_until=UNTIL_RESUMED) for priority in Priority for size in Size]
    alert = with_status(queues=queues)
    assert alert.text == "paused: all queues, each until it is resumed"
    assert alert.command == "diracx-task-run resume --all"


def test_a_worker_that_is_gone_is_told_with_the_time_at_which_its_tasks_come_back() -> None:
    gone = [GoneWorker("node1-412-small-x7k2", "holds 2 locks", NOW), GoneWorker("node2-1-large-a2b3", "had 1 task")]
    first, second = alerts_of(healthy(gone=gone))
    assert first.name == "worker-gone"
    assert first.text.startswith("node1-412-small-x7k2 holds 2 locks and does not answer: ")
    assert first.text.endswith("come back when their leases lapse, by 2026-12-01T06:00:00Z")
    assert second.text.endswith("come back when their leases lapse")


def test_wrong_clocks_of_workers_and_schedulers_are_told() -> None:
    workers = [a_worker(Size.SMALL, clock_ahead_seconds=7_200.0), a_worker(Size.LARGE, clock_ahead_seconds=-4.9)]
    scheduler = SchedulerStatus(leader="s", standbys=[], clock_ahead_seconds={"s": -90.0, "t": None})
    first, second = alerts_of(healthy(status={"workers": workers, "scheduler": scheduler}))
    assert (first.name, second.name) == ("wrong-clock", "wrong-clock")
    assert "node1-412-small-x7k2 is 2 h ahead of the server's" in first.text
    assert "s is 1 min 30 s behind the server's" in second.text


def test_an_isolated_task_is_named_and_its_command_is_safe_in_a_shell() -> None:
    alert = with_status(workers=[a_worker(Size.SMALL, isolated="test:Wait 7; rm x")])
    assert alert.name == "worker-isolated"
    assert "isolates test:Wait 7; rm x" in alert.text
    assert alert.command == "diracx-task-run task '7; rm x'"


def test_what_is_not_served_or_held_and_dead_letters_are_told() -> None:
    down = {"garage:Open": "DoorSettings: no answer"}
    workers = [a_worker(Size.SMALL, not_served=down), a_worker(Size.LARGE, not_served=down)]
    held = [HeldTask("a:B", None), HeldTask("a:C", "lhcb")]
    alerts = alerts_of(healthy(status={"workers": workers, "held": held, "dead_letters": 1}))
    assert [(alert.name, alert.text, alert.command) for alert in alerts] == [
        ("task-not-served", "2 workers cannot serve garage:Open: DoorSettings: no answer", None),
        ("dead-letters", "1 dead letter stored", "diracx-task-run dlq list"),
        ("task-held", "the configuration holds a:B, a:C of lhcb", "diracx-task-run config show"),
    ]


def test_replicas_that_are_behind_are_told() -> None:
    alert = with_status(catching_up=["stream DIRACX_LATER: server-2 is offline", "bucket diracx_locks: has no leader"])
    assert (alert.name, alert.level) == ("replicas-behind", "warning")
    assert alert.text == "catching up: stream DIRACX_LATER: server-2 is offline; bucket diracx_locks: has no leader"


def test_what_tasks_need_and_nobody_leads_is_critical() -> None:
    elsewhere = healthy(leaderless=["stream DIRACX_DLQ", "bucket diracx_results"])
    assert alerts_of(elsewhere) == [], "they are among those that catch up"
    (alert,) = alerts_of(healthy(leaderless=["stream DIRACX_LATER", "bucket diracx_locks", "consumer normal-small"]))
    assert (alert.level, alert.name, alert.command) == ("critical", "no-leader", "nats stream report")
    assert alert.text.startswith("stream DIRACX_LATER, bucket diracx_locks, consumer normal-small have no leader: ")
    (alert,) = alerts_of(healthy(leaderless=["stream DIRACX_TASKS", "consumer normal-small"]))
    assert alert.text.startswith("stream DIRACX_TASKS has no leader: ")


def test_the_most_important_alert_comes_first_and_critical_ones_before_warnings() -> None:
    alerts = alerts_of(healthy(status={"dead_letters": 1, "held": [HeldTask("a:B", None)]}, missing=["stream X"]))
    assert [alert.name for alert in alerts] == ["stream-missing", "dead-letters", "task-held"]
    levels = list(LEVELS.values())
    assert levels == sorted(levels)
