"""Whatever task code does to itself, its loop and its process is its own end, and no neighbour's."""

from __future__ import annotations

import concurrent.futures
import subprocess

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from support.command_line import CommandLine, OnTheServer
from support.misbehaving_cases import GROUPS, SUCCEEDS, Case
from support.misbehaving_tasks import CATEGORY, NEIGHBOURS, Workplace, charges, install, judge

SLOTS = 12
NONSENSE = ("text", "number", "delay", "date", "naive", "SystemExit", "KeyboardInterrupt", "Refused", "CancelledError")
CALLS_AT_ONCE = 3
CALL_SECONDS = 30.0


@pytest.fixture
async def unruly(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare, server.url)
    await on_the_server.set_up()
    return bare


@pytest.mark.parametrize("size", Size)
@pytest.mark.parametrize("group", GROUPS)
async def test_an_unruly_task_ends_in_its_own_way_and_its_neighbours_run_once(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size, group: str
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    cases = [case for case in GROUPS[group] if size in case.sizes]
    worker = workplace.worker("--max-concurrent-tasks", str(SLOTS), "--lock-retry-delay", "0.3")
    names = [f"release neighbour {number}" for number in range(NEIGHBOURS)]
    await workplace.neighbours(*names)
    for case in cases:
        await workplace.submit(case.task, case.id, case.body)
    await workplace.settled(NEIGHBOURS)
    assert not await charges(workplace, names)
    await workplace.submit("Neighbour", "afterwards", {"name": "release afterwards"})
    unruly.release("release")
    await workplace.settled()
    assert await worker.stop() == 0, worker.log

    letters, journal = workplace.dead_letters(), unruly.journal()
    wrong = {case.id: judge(case, letters.get(case.id), journal) for case in cases}
    assert not {case_id: reason for case_id, reason in wrong.items() if reason}
    assert letters.keys() <= wrong.keys(), "a neighbour has a dead letter"
    for name in (*names, "release afterwards"):
        assert (journal.count(f"begin {name}"), journal.count(f"end {name}")) == (1, 1)
    for sign in ("unsettled", "isolat", "poison", "Event loop is closed"):
        assert sign not in worker.log
    assert (await on_the_server.attempts(), await on_the_server.locks()) == (0, 0)


@pytest.mark.parametrize("size", Size)
async def test_a_retry_policy_that_fails_or_answers_nonsense_ends_its_task_and_is_named(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    worker = workplace.worker("--max-concurrent-tasks", str(SLOTS))
    await workplace.neighbours("release neighbour")
    for answer in NONSENSE:
        await workplace.submit("PolicyFails", answer, {"answer": answer})
    await workplace.settled(1)
    assert not await charges(workplace, ["release neighbour"])
    unruly.release("release")
    await workplace.settled()
    assert await worker.stop() == 0, worker.log
    letters = workplace.dead_letters()
    assert set(letters) == set(NONSENSE)
    for letter in letters.values():
        assert [error["type"] for error in letter["errors"]] == ["misbehaving_tasks.tasks.QuestionError"]
        assert "its retry policy failed" in letter["reason"]


@pytest.mark.parametrize("size", Size)
async def test_a_failed_task_that_is_dropped_has_a_line_and_its_traceback_in_the_log(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    workplace = Workplace(unruly, on_the_server, size)
    acts = ("raises_an_exception", "raises_no_exception", "exits_in_gather", "fails_in_a_task_group")
    worker = workplace.worker("--max-concurrent-tasks", str(SLOTS))
    for act in acts:
        await workplace.submit("Untold", act, {"act": act})
    await workplace.settled()
    assert await worker.stop() == 0, worker.log
    for act in acts:
        assert f"dropped misbehaving:Untold (message {workplace.sequences[act]})" in worker.log
        assert f"in {act}" in worker.log, "the traceback names the line of the task"
        assert unruly.journal().count(f"begin {act}") == 1
    assert not workplace.dead_letters()


async def test_a_policy_that_always_gives_the_same_time_is_asked_with_each_attempt(
    unruly: CommandLine, on_the_server: OnTheServer
) -> None:
    workplace = Workplace(unruly, on_the_server, Size.SMALL)
    worker = workplace.worker()
    await workplace.submit("RetriedYesterday", "yesterday", {"act": "raises_an_exception"})
    await workplace.settled()
    assert await worker.stop() == 0
    assert [line for line in unruly.journal() if line.startswith("asked")] == [f"asked {n}" for n in range(4)]


@pytest.mark.parametrize("group", GROUPS)
async def test_in_a_call_an_unruly_task_fails_or_succeeds_as_in_a_worker(
    unruly: CommandLine, on_the_server: OnTheServer, group: str
) -> None:
    cases = [case for case in GROUPS[group] if case.called]
    with concurrent.futures.ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        done = pool.map(lambda case: _call(unruly, case), cases)
        wrong = {case.id: reason for case, reason in zip(cases, done, strict=True) if reason}
    assert not wrong
    assert (await on_the_server.waiting(), await on_the_server.locks()) == (0, 0)


def _call(command_line: CommandLine, case: Case) -> str | None:
    """Call a case; return what is wrong with its end."""
    process = command_line.start("call", f"{CATEGORY}:{case.task}", "--kwargs", case.body.decode())
    try:
        out, err = process.communicate(timeout=CALL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return "does not end"
    said = f"exit code {process.returncode}: {out}{err}"
    if process.returncode == 0:
        return None if SUCCEEDS in case.ends and "Result: None" in out else said
    names = [name.rpartition(".")[2] for name in case.ends if name != SUCCEEDS]
    right = any(name in err for name in names) and "a worker would retry it" in err
    return None if process.returncode == 1 and right and "interrupted" not in err else said
