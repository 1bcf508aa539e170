"""`result`, and `submit --wait`: what came of a task that ran elsewhere."""

from __future__ import annotations

import json
import re

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.terminal import on_terminal

SUBMITTED = re.compile(r"submitted (lollygag:\w+) as ([0-9a-f]{32})")


def submitted_id(text: str) -> str:
    found = SUBMITTED.search(text)
    assert found is not None, text
    return found[2]


async def test_submit_wait_prints_what_call_prints_and_result_shows_it_again(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    await on_the_server.set_up()
    worker = with_server.start("worker", "--worker-size", "small")
    wait = ("submit", "--wait")
    done, dead, late, unwaited, early = with_server.each(
        [
            [*wait, "lollygag:SyncOwnersTask", "--args", '["alice"]', "--delay", "0.1"],
            [*wait, "lollygag:Dies", "--args", '["the cat is gone"]', "--timeout", "60"],
            [*wait, "lollygag:Waits", "--args", '["door"]', "--timeout", "0.1"],
            ["submit", "lollygag:SyncOwnersTask", "--args", '["bob"]'],
            ["submit", "lollygag:SyncOwnersTask", "--args", '["bob"]', "--timeout", "1"],
        ]
    )
    assert (done.returncode, done.stdout) == (0, "Result: 1\n"), done.stderr
    assert (dead.returncode, dead.stdout) == (1, "")
    story = dead.stderr[dead.stderr.index("Traceback") :].splitlines()
    assert story[-2] == "ValueError: the cat is gone"
    assert story[-1] == f"error: lollygag:Dies ({submitted_id(dead.stderr)}) failed: ValueError: the cat is gone"
    assert (late.returncode, late.stdout) == (1, "")
    waiting = submitted_id(late.stderr)
    said, why = late.stderr.splitlines()[-2:]
    assert said == f"{waiting} stays submitted; see `diracx-task-run result {waiting}`, or as operator `task {waiting}`"
    assert why.startswith(f"error: no result of {waiting}: nothing is there within 0.1 s: it has not ended")
    assert unwaited.returncode == 0
    assert early.returncode == 2
    assert early.stderr == "error: --timeout belongs to --wait; see `diracx-task-run submit --help`\n"
    with_server.release("door")

    async def has_ended() -> bool:
        return await on_the_server.waiting() == 0

    await wait_until(has_ended, description="all tasks have ended", timeout=30)
    worker.terminate()
    assert worker.wait(30) == 0
    ids = [submitted_id(done.stderr), submitted_id(dead.stderr), waiting, unwaited.stdout.strip()]
    check_shown(with_server, ids, dead.stderr)


def check_shown(with_server: CommandLine, ids: list[str], dead: str) -> None:
    """`result` shows four results: of a success, a failure whose wait wrote `dead`, a success, and none."""
    shown = with_server.each([command for each in ids for command in (["result", each], ["result", each, "--json"])])
    assert [each.returncode for each in shown] == [0, 0, 1, 1, 0, 0, 1, 1]
    text, document, failed, failed_document, *_, none, no_document = shown
    assert text.stdout == "Result: 1\n"
    assert (
        json.loads(document.stdout).items()
        >= {
            "id": ids[0],
            "task": "lollygag:SyncOwnersTask",
            "status": "succeeded",
            "value": 1,
            "error": None,
        }.items()
    )
    assert failed.stderr[failed.stderr.index("Traceback") :] == dead[dead.index("Traceback") :]
    assert failed_document.stderr.splitlines()[-1] == dead.splitlines()[-1]
    error = json.loads(failed_document.stdout)["error"]
    assert (error["type"], error["message"]) == ("ValueError", "the cat is gone")
    assert error["traceback"].startswith("Traceback")
    for each in (none, no_document):
        assert each.stdout == ""
        assert f"error: no result of {ids[3]}: nothing is there now" in each.stderr


async def test_ctrl_c_ends_the_wait_and_leaves_the_task(with_server: CommandLine, on_the_server: OnTheServer) -> None:
    await on_the_server.set_up()
    arguments = ("submit", "--wait", "lollygag:SyncOwnersTask", "--args", '["alice"]')
    with on_terminal(with_server, *arguments) as terminal:
        terminal.read_until("waiting for lollygag:SyncOwnersTask")
        task_id = submitted_id(terminal.text)
        assert terminal.interrupt() == 130
    assert f"{task_id} stays submitted; see `diracx-task-run result {task_id}`" in terminal.text
    assert "Traceback" not in terminal.text
    assert await on_the_server.waiting() == 1
    done = with_server("result", task_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it has not ended" in done.stderr


def test_bad_usage_and_a_missing_server(extension: CommandLine) -> None:
    empty, nowhere = extension.each([["result", ""], ["result", "1"]])
    assert (empty.returncode, nowhere.returncode) == (2, 69)


async def test_a_namespace_that_does_not_exist_is_told(with_server: CommandLine) -> None:
    done = with_server("result", "1")
    assert done.returncode == 69
    assert "does not exist on this server" in done.stderr
