"""The health of a worker that is stopped while one of its tasks runs."""

from __future__ import annotations

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.health_door import get, health_of


async def test_a_stopping_worker_is_live_but_not_ready_until_its_tasks_have_ended(with_server: CommandLine) -> None:
    worker = with_server.start("worker", "--worker-size", "small", "--health-port", "0")
    address = health_of(worker)
    assert with_server("submit", "lollygag:Waits", "--args", '["go"]').returncode == 0
    await wait_until(lambda: get(f"{address}/ready") == (200, "ok\n"), description="it is ready", timeout=30)
    await wait_until(lambda: "begin go" in with_server.journal(), description="the task runs", timeout=30)
    worker.terminate()
    await wait_until(lambda: get(f"{address}/ready") == (503, "stopping\n"), description="it stops", timeout=30)
    assert get(f"{address}/live") == (200, "ok\n")
    with_server.release("go")
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0, log
