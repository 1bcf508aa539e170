"""The ledger of `scripts/chaos --cluster`: which outages explain a repeat, locks, the schedule, and lateness."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.paths import CHAOS

ACK_WAIT = 5.0
TASK = "4711"
QUEUE = "DIRACX_TASKS/normal-small"
URGENT = "DIRACX_TASKS/realtime-small"
Account = Callable[..., Any]


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Account for the tasks in a journal of worker 1."""
    monkeypatch.syspath_prepend(str(CHAOS))
    accounts, disturbances, journal = (importlib.import_module(n) for n in ("accounts", "disturbances", "journal"))

    def outage(begun: float, ended: float, led: str = "", pids: tuple[int, ...] = ()) -> Any:
        return disturbances.Outage(begun, ended, "server-1", frozenset({led}), frozenset(pids), ended)

    def account(
        lines: list[str],
        outages: list[tuple[Any, ...]] = [],  # noqa: B006 - it is only read
        kills: dict[int, float] = {},  # noqa: B006
        stops: dict[int, tuple[float, float]] = {},  # noqa: B006
        until: float | None = None,
        due: float | None = None,
    ) -> Any:
        (tmp_path / "1.journal").write_text("".join(f"{line}\n" for line in lines))
        known = disturbances.Disturbances(
            ACK_WAIT,
            disturbances.Needs(
                (QUEUE, "DIRACX_TASKS"), (URGENT, "DIRACX_TASKS"), ("KV_diracx_attempts",), ("KV_diracx_locks",)
            ),
            {pid: disturbances.Span(at, at) for pid, at in kills.items()},
            [outage(*each) for each in outages],
            {pid: [disturbances.Span(*span)] for pid, span in stops.items()},
        )
        found = journal.read(tmp_path)
        submitted = {
            task: accounts.Submission(runs[0].kind, due)
            for task, runs in found.executions.items()
            if runs[0].kind != "Ticks"
        }
        return accounts.Accountant(found, known, (), 0, scheduled_until=until).account(submitted)

    return account


def line(event: str, at: float, execution: int = 1, pid: int = 1, kind: str = "Quick", task: str = TASK) -> str:
    event, _, more = event.partition(" ")
    return f"{event} {task} {kind} 0 {pid} {execution} {at} {more}".rstrip()


TWICE = [line("begin", 100), line("done", 100.1), line("begin", 105.1, 2, 9), line("done", 105.2, 2, 9)]


@pytest.mark.parametrize(
    ("outage", "cause"),
    [
        ((100.2, 106, QUEUE), f"ended, and the leader of {QUEUE} went away before the ack was kept"),
        (
            (100.2, 106, "KV_diracx_attempts"),
            "ended, and the leader of KV_diracx_attempts went away before the ack was kept",
        ),
        (
            (100.2, 106, "", (1,)),
            "ended, and the server that its worker was connected to went away before the ack was kept",
        ),
        ((92, 96, QUEUE), f"its lease lapsed, since the leader of {QUEUE} went away"),
    ],
)
def test_a_repeat_is_explained_by_the_end_of_a_server_that_its_delivery_needed(
    account: Account, outage: Any, cause: str
) -> None:
    assert dict(account(TWICE, [outage]).repeats) == {cause: 1}


@pytest.mark.parametrize(
    "outage", [(100.2, 106, "KV_diracx_config"), (100.2, 106, "", (9,)), (104, 105, QUEUE), (100.2, 106, URGENT)]
)
def test_the_end_of_another_server_or_at_another_time_explains_nothing(account: Account, outage: Any) -> None:
    assert account(TWICE, [outage]).unexplained


def test_on_a_cluster_nothing_excuses_a_schedule_that_fires_twice(account: Account) -> None:
    assert account(TWICE, [(99, 103, "DIRACX_LATER")], due=100).unexplained


def test_an_urgent_task_needs_the_consumer_of_its_own_queue(account: Account) -> None:
    twice = [each.replace("Quick", "Urgent") for each in TWICE]
    assert account(twice, [(100.2, 106, URGENT)]).unexplained == []
    assert account(twice, [(100.2, 106, QUEUE)]).unexplained


def test_a_failure_of_a_task_that_does_not_fail_by_itself_is_told(account: Account) -> None:
    lines = [line("begin", 100), line("failed 0 101", 100.1), line("begin", 101.1, 2), line("done", 101.2, 2)]
    assert [each.partition(":")[0] for each in account(lines).failures] == [f"Quick {TASK}"]


def holders(*stays: tuple[float, float, int]) -> list[str]:
    """Executions under lock 7: begin, end, token."""
    lines = []
    for number, (begun, ended, token) in enumerate(stays, 1):
        for event, at in (("begin", begun), (f"locked 7 {token}", begun), ("done", ended)):
            lines.append(line(event, at, number, number, "Locked", f"{TASK}{number}"))
    return lines


def test_executions_under_one_lock_that_follow_one_another_with_rising_tokens_are_right(account: Account) -> None:
    ledger = account(holders((100, 101, 5), (101.1, 102, 9)))
    assert (ledger.holders, ledger.unexplained) == (2, [])


def test_executions_that_overlap_under_one_lock_are_told(account: Account) -> None:
    (problem,) = account(holders((100, 101, 5), (100.9, 102, 9))).unexplained
    assert problem == (
        f"lock 7: Locked {TASK}2 in worker 2 from 100.900 began while Locked {TASK}1 in worker 1 from 100.000 held it, "
        "until 101.000"
    )


def test_a_token_that_does_not_rise_is_told(account: Account) -> None:
    (problem,) = account(holders((100, 101, 9), (101.1, 102, 9))).unexplained
    assert "has token 9" in problem


def test_a_lock_is_free_once_the_process_of_its_owner_is_dead(account: Account) -> None:
    lines = [each for each in holders((100, 101, 5), (104, 105, 9)) if f"done {TASK}1 " not in each]
    assert [each for each in account(lines, kills={1: 103.9}).unexplained if "began while" in each] == []
    assert [each for each in account(lines, kills={1: 104.1}).unexplained if "began while" in each]


def test_an_owner_that_slept_while_its_lock_went_over_must_not_be_done(account: Account) -> None:
    asleep = holders((100, 115, 5), (110, 111, 9))
    cancelled = [each.replace("done", "cancelled") if f"done {TASK}1 " in each else each for each in asleep]

    def overlaps(lines: list[str]) -> list[str]:
        return [each for each in account(lines, stops={1: (100.5, 114.9)}).unexplained if "began while" in each]

    assert overlaps(asleep)
    assert overlaps(cancelled) == []


def test_a_lock_that_lapsed_in_an_election_explains_a_cancelled_execution(account: Account) -> None:
    lines = [line("begin", 100, kind="Locked"), line("cancelled", 108, kind="Locked")]
    lines += [line("begin", 112, 2, 9, "Locked"), line("done", 112.1, 2, 9, "Locked")]
    ledger = account(lines, [(101, 108, "KV_diracx_locks")])
    assert dict(ledger.repeats) == {"its lock lapsed, since the leader of KV_diracx_locks went away": 1}
    assert account(lines, [(101, 108, "KV_diracx_config")]).unexplained


def ticks(*seconds: int) -> list[str]:
    """Occurrences of the schedule that ran when they were due, at these seconds of CLOCK_BOOTTIME."""
    occurrences = importlib.import_module("occurrences")
    lines = []
    for number, second in enumerate(seconds, 1):
        task = f"chaos:Ticks-20261127T0000{second:02}Z"
        at = occurrences.due_of(task)
        lines += [line("begin", at, number, kind="Ticks", task=task), line("done", at, number, kind="Ticks", task=task)]
    return lines


def test_each_second_has_its_occurrence(account: Account) -> None:
    lines = ticks(1, 2, 3, 5, 6)
    at = float(lines[0].split()[6])
    ledger = account(lines, until=at + 10)
    assert (ledger.occurrences, ledger.missed) == (5, 0)
    (problem,) = ledger.unexplained
    assert problem.startswith("the occurrence due at ")
    ledger = account(lines, [(at + 1, at + 2, "DIRACX_LATER")], until=at + 10)
    assert (ledger.missed, ledger.unexplained) == (1, [])


def test_a_schedule_that_has_stopped_is_told(account: Account) -> None:
    lines = ticks(1, 2)
    at = float(lines[0].split()[6])
    assert len(account(lines, until=at + 20).unexplained) == 13
    assert account([], until=100).unexplained == ["no occurrence of the schedule ran"]


def test_lateness_is_measured_from_the_time_of_a_task_with_and_without_elections(account: Account) -> None:
    lines = [line("begin", 110, kind="Urgent"), line("done", 110.1, kind="Urgent")]
    late = account(lines, [(101, 107, QUEUE), (106, 109, QUEUE)], due=100).late_urgent
    assert late.worst.seconds == 10
    assert late.worst.with_leaders == 2
    found = late.document()
    assert (found["max"], found["beside_elections"]["count"], found["with_leaders"]["max"]) == (10, 1, 2)


def test_a_server_that_has_just_started_leads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHAOS))
    servers = importlib.import_module("servers")

    def state(**group: str) -> Any:
        cluster = {"leader": "server-1", **group}
        stream = {"name": "S", "cluster": cluster, "consumer_detail": [{"name": "c", "cluster": cluster}]}
        return {"account_details": [{"stream_detail": [stream]}]}

    assert servers.groups_led("server-1", state(raft_group="S-R3F-1")) == ["S", "S/c"]
    assert servers.groups_led("server-2", state(raft_group="S-R3F-1")) == []
    assert servers.groups_led("server-1", state()) == []


@pytest.mark.parametrize(
    ("every", "complaints"),
    [(None, ["no leader for 10 s: S did not take it", "the stream is full"]), (5.0, ["the stream is full"])],
)
def test_only_kills_that_outpace_elections_excuse_a_submission_without_a_leader(
    every: float | None, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(CHAOS))
    run, ledger = importlib.import_module("run"), importlib.import_module("ledger")
    plan = SimpleNamespace(cluster=True, every=every, max_late=None)
    producer = SimpleNamespace(errors=["no leader for 10 s: S did not take it", "the stream is full"])
    assert run.complaints(plan, ledger.Ledger(), producer) == [f"submission with an error: {e}" for e in complaints]
