"""The release of a lock, in sentences."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from diracx.tasks.plumbing.operations.lock_release import of_holders, of_meanwhile, told
from diracx.tasks.plumbing.operations.locks import HeldLock, LockHolder, Noticed

SINCE = datetime(2026, 5, 4, 9, 30, 12, tzinfo=UTC)
HOLDER = LockHolder("acme:Sync", "0192", "host-7-small", SINCE)


def lock(kind: str, holders: int = 1) -> HeldLock:
    held = [LockHolder("a:B", str(number), "w", SINCE) for number in range(holders)]
    return HeldLock(f"{kind}.job.7", kind, held, 12.3)


def test_the_holders_are_named_a_few_of_many() -> None:
    assert of_holders(lock("mutex")) == "Held by a:B 0 on w since 2026-05-04T09:30:12Z."
    assert of_holders(lock("rw", 7)).endswith("a:B 4 on w since 2026-05-04T09:30:12Z, 2 more.")
    assert of_holders(lock("rw", 0)).startswith("Nobody holds it")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (lock("mutex"), "it expires by itself, in 12 s"),
        (lock("mutex"), "Its task runs on, beside the next owner, until"),
        (lock("rate"), "admissions in its window are forgotten"),
        (lock("conc"), "its holders are forgotten"),
        (lock("leader"), "leadership of the schedulers"),
        (lock("mutex", 0), ""),
    ],
)
def test_what_goes_on_meanwhile_depends_on_the_kind(held: HeldLock, said: str) -> None:
    assert said in " ".join(of_meanwhile(held))
    assert bool(of_meanwhile(held)) is bool(said)


@pytest.mark.parametrize(
    ("noticed", "line"),
    [
        (Noticed(HOLDER, runs=False), ": it does not run any more"),
        (Noticed(HOLDER, runs=False, known=False), ": it does not answer. If it lives, its task runs on"),
        (Noticed(HOLDER, runs=True, cancelled=True), ": it was cancelled, and has not ended yet; it runs beside"),
        (
            Noticed(HOLDER, runs=True),
            ": it has not noticed within 15 s; its task runs on, beside the next owner, until",
        ),
    ],
)
def test_the_operator_reads_what_has_become_of_the_holder(noticed: Noticed, line: str) -> None:
    assert line in told(noticed)
    assert told(noticed).startswith("warning: ") == noticed.runs
