"""Child processes of tasks behave as in any program, whatever handlers their worker has."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.leaving_tasks import TASKS, arguments, install
from support.processes import worker_process

SLOW_SECONDS = 20.0
"""A child that keeps the handlers of its worker lives for 300 s."""


@pytest.fixture
def unruly(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return bare


def test_children_of_a_call_end_when_they_are_terminated(unruly: CommandLine) -> None:
    done = unruly("call", *arguments("terminates_children"))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.removeprefix("Result: ")) < SLOW_SECONDS


def test_a_forked_child_has_the_default_handlers(unruly: CommandLine) -> None:
    done = unruly("call", *arguments("tells_its_childs_signals"))
    assert (done.returncode, done.stdout) == (0, "Result: plain, plain\n"), done.stderr


@pytest.mark.parametrize("size", [Size.SMALL, Size.MEDIUM])
async def test_children_of_a_workers_task_end_when_they_are_terminated_and_the_worker_goes_on(
    unruly: CommandLine, on_the_server: OnTheServer, size: Size
) -> None:
    with worker_process(unruly, size) as worker:
        assert unruly("submit", *arguments("terminates_children", TASKS[size])).returncode == 0
        await wait_until(unruly.journal, description="its children have ended", timeout=60)
        (line,) = unruly.journal()
        assert float(line.removeprefix("children took ")) < SLOW_SECONDS
        assert worker.process.poll() is None
        assert await worker.stop() == 0
        assert "by force" not in worker.log
