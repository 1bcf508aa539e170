"""`scripts/chaos` in small, and that its ledger sees what it is there to see."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.paths import CHAOS, TESTS

ACK_WAIT = 5.0
TASK = "4711"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Account for one task of a kind, by what a journal says of it."""
    monkeypatch.syspath_prepend(str(CHAOS))
    accounts, disturbances, journal = (importlib.import_module(n) for n in ("accounts", "disturbances", "journal"))

    def account(lines: list[str], kind: str = "Quick", dead: bool = False, **happened: Any) -> Any:
        (tmp_path / "1.journal").write_text("".join(f"{line}\n" for line in lines))
        kinds = {"server_outages": disturbances.Outage}
        spans = {name: _spans(kinds.get(name, disturbances.Span), value) for name, value in happened.items()}
        known = disturbances.Disturbances(ACK_WAIT, **spans)
        accountant = accounts.Accountant(journal.read(tmp_path), known, {TASK} if dead else (), 0)
        return accountant.account({TASK: accounts.Submission(kind)})

    return account


def _spans(span: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {pid: _spans(span, spans) for pid, spans in value.items()}
    return [span(*each) for each in value] if isinstance(value, list) else span(*value)


def line(event: str, at: float, execution: int = 1, pid: int = 1, kind: str = "Quick", more: str = "") -> str:
    return f"{event} {TASK} {kind} 0 {pid} {execution} {at} {more}".rstrip()


def failures(*attempts_at: tuple[int, float, str]) -> list[str]:
    """Executions of half a second that fail: attempt, begin, when the policy wants them again."""
    lines = []
    for number, (attempt, begun, again) in enumerate(attempts_at):
        lines.append(line("begin", begun, number, kind="Dies"))
        lines.append(line("failed", begun + 0.5, number, kind="Dies", more=f"{attempt} {again}"))
    return lines


def test_a_small_run_loses_nothing_and_explains_every_repeat() -> None:
    command = [
        "--tasks",
        "300",
        "--kill-workers",
        "3",
        "--kill-server",
        "1",
        "--ack-wait",
        "2",
        "--seconds",
        "9",
        "--seed",
        "7",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, str(CHAOS), *command],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = json.loads(done.stdout)
    assert ledger["worker_kills"] == 3
    assert ledger["server_kills"] == 1
    assert ledger["submitted"] >= 300
    executed = ledger["executed_once"] + ledger["executed_more_than_once"]
    assert 0 <= ledger["submitted"] - executed <= ledger["cancelled"], "only what was cancelled need not be executed"
    assert ledger["dead"] > 0
    assert ledger["lost"] == ledger["unexplained"] == ledger["problems"] == []


def test_a_task_that_was_never_executed_and_is_not_dead_is_lost(account: Any) -> None:
    ledger = account([])
    assert ledger.lost == [f"Quick {TASK}: never begun"]
    assert not ledger.balanced


def test_a_task_whose_only_execution_was_killed_is_lost(account: Any) -> None:
    assert account([line("begin", 100)], worker_kills={1: (101, 101.1)}).lost


def test_a_task_that_failed_for_good_without_its_dead_letter_is_lost(account: Any) -> None:
    lines = failures((0, 100, "100.9"), (1, 101, "102"), (2, 102, "103"), (3, 104, "-"))
    assert account(lines, "Dies").lost
    assert account(lines, "Dies", dead=True).balanced


def test_a_dead_letter_that_nobody_earned_is_unexplained(account: Any) -> None:
    assert account([line("begin", 100), line("done", 100.1)], dead=True).unexplained
    assert account(failures((0, 100, "100.9"), (1, 101, "-")), "Dies", dead=True).unexplained


def test_a_task_that_misbehaves_and_ends_well_is_unexplained(account: Any) -> None:
    assert account([line("begin", 100, kind="Exits"), line("done", 100.1, kind="Exits")], "Exits").unexplained
    assert account([line("begin", 100, kind="Blocks"), line("done", 100.1, kind="Blocks")], "Blocks").balanced


def test_a_task_that_had_no_time_to_misbehave_since_its_worker_was_stopped_is_explained(account: Any) -> None:
    again = failures((0, 107, "107.9"), (1, 108, "109"), (2, 109, "110"), (3, 111, "-"))
    lines = [line("begin", 100, 9), line("done", 115, 9), *again]
    lines = [each.replace("Quick", "LeavesThread").replace("Dies", "LeavesThread") for each in lines]
    ledger = account(lines, "LeavesThread", dead=True, stops={1: [(100.1, 114.9)]})
    assert (ledger.dead, ledger.unexplained) == (1, [])
    assert account(lines, "LeavesThread", dead=True, stops={2: [(100.1, 114.9)]}).unexplained


def test_a_task_that_was_cancelled_before_its_end_since_its_worker_was_stopped_is_explained(account: Any) -> None:
    lines = [line("begin", 100), line("begin", 105, 2, 2), line("done", 105.1, 2, 2)]
    ledger = account(lines, stops={1: [(100.1, 106)]})
    assert ledger.repeats == {"its lease lapsed while its worker was stopped": 1}
    assert ledger.balanced
    assert account(lines, stops={2: [(100.1, 106)]}).unexplained


def test_a_failure_after_a_cancellation_that_nobody_but_the_task_wanted_is_a_failure(account: Any) -> None:
    lines = failures((0, 100, "100.9"), (1, 101, "102"), (2, 102, "103"), (3, 104, "-"))
    both = []
    for each in lines:
        if each.startswith("failed"):
            both.append(each.replace("failed", "cancelled").rsplit(" ", 2)[0])
        both.append(each)
    ledger = account(both, "CancelsItself", dead=True)
    assert (ledger.retries, ledger.dead, ledger.balanced) == (3, 1, True)


def test_a_kill_between_a_cancellation_and_its_failure_explains_a_repeat(account: Any) -> None:
    lines = [line("begin", 100, kind="LeavesThread"), line("cancelled", 100.2, kind="LeavesThread")]
    lines += [each.replace("Dies", "LeavesThread") for each in failures((0, 110, "110.9"), (1, 111, "112"))]
    lines += [each.replace("Dies", "LeavesThread") for each in failures((2, 113, "114"), (3, 115, "-"))]
    numbered = [each.replace(" 1 1 ", " 1 9 ") if index < 2 else each for index, each in enumerate(lines)]
    assert account(numbered, "LeavesThread", dead=True, worker_kills={1: (101.5, 101.6)}).unexplained == []
    assert account(numbered, "LeavesThread", dead=True).unexplained


def test_a_repeat_out_of_the_blue_is_unexplained(account: Any) -> None:
    ledger = account([line("begin", 100), line("done", 100.1), line("begin", 105, 2), line("done", 105.1, 2)])
    assert len(ledger.unexplained) == 1
    assert not ledger.balanced


@pytest.mark.parametrize(
    ("happened", "cause"),
    [
        ({"worker_kills": {1: (100.2, 100.3)}}, "ended, and its worker was killed before the ack was out"),
        ({"server_outages": [(100.2, 101)]}, "ended, and the server was killed before the ack was kept"),
        ({"stops": {1: [(100.05, 106)]}}, "its lease lapsed while its worker was stopped"),
        ({"cuts": {1: [(99, 106)]}}, "its worker was cut off from the server"),
    ],
)
def test_a_repeat_after_a_disturbance_is_explained_by_it(account: Any, happened: Any, cause: str) -> None:
    lines = [line("begin", 100), line("done", 100.1), line("begin", 105.1, 2, 9), line("done", 105.2, 2, 9)]
    ledger = account(lines, **happened)
    assert dict(ledger.repeats) == {cause: 1}
    assert ledger.balanced


@pytest.mark.parametrize(
    "happened",
    [
        {"worker_kills": {2: (100.2, 100.3)}},
        {"worker_kills": {1: (103, 103.1)}},
        {"server_outages": [(104, 105)]},
        {"stops": {1: [(101, 106)]}},
    ],
)
def test_a_disturbance_of_others_or_of_another_time_explains_nothing(account: Any, happened: Any) -> None:
    lines = [line("begin", 100), line("done", 100.1), line("begin", 105.1, 2, 9), line("done", 105.2, 2, 9)]
    assert account(lines, **happened).unexplained


def test_a_retry_is_no_repeat_unless_it_comes_early(account: Any) -> None:
    in_time = account(failures((0, 100, "100.9"), (1, 101, "102"), (2, 102, "103"), (3, 104, "-")), "Dies", dead=True)
    assert (in_time.retries, sum(in_time.repeats.values())) == (3, 0)
    early = failures((0, 100, "100.9"), (1, 100.8, "102"), (2, 102, "103"), (3, 104, "-"))
    assert account(early, "Dies", dead=True, worker_kills={1: (100.6, 100.7)}).unexplained


def test_a_callback_follows_a_child_that_was_cancelled_and_ran_on_in_a_worker_that_was_stopped(account: Any) -> None:
    child, callback = f"{TASK}-0-0", f"{TASK}-0-callback"

    def of(task: str, event: str, at: float, execution: int, pid: int, kind: str = "Sleeps", more: str = "") -> str:
        return line(event, at, execution, pid, kind, more).replace(f" {TASK} ", f" {task} ", 1)

    def found(callback_at: float) -> list[str]:
        lines = [
            line("spawned", 100, kind="Spawns", more=f"{TASK}-0 1"),
            of(child, "begin", 101, 2, 1),
            of(child, "begin", 107, 1, 2),
            of(child, "cancelled", 108, 1, 2),
            of(callback, "begin", callback_at, 3, 2, "Follows"),
            of(callback, "followed", callback_at, 3, 2, "Follows", f"{TASK}-0 cancelled=1"),
            of(child, "cancelled", 115, 2, 1),
        ]
        return [each for each in account(lines, stops={1: [(101.5, 114.9)]}).unexplained if "its callback" in each]

    assert found(109) == []
    assert found(107.5) == [
        f"group {TASK}-0: its callback began at 107.500, before the last child had ended at 108.000"
    ]
