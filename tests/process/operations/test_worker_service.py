"""The health of a worker that is stopped while one of its tasks runs, and of one whose queue is deleted."""

from __future__ import annotations

import json
import re

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
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


async def test_a_worker_whose_queue_is_deleted_is_not_ready_until_setup_has_run_and_status_keeps_the_row(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    worker = with_server.start("worker", "--worker-size", "small", "--health-port", "0")
    address = health_of(worker)
    await wait_until(lambda: get(f"{address}/ready") == (200, "ok\n"), description="it is ready", timeout=30)
    await on_the_server.connection.api(f"CONSUMER.DELETE.{on_the_server.names.tasks_stream}.normal-small")
    why = "cannot pull: consumer normal-small is missing: run `diracx-task-run setup`"
    await wait_until(lambda: get(f"{address}/ready") == (503, f"{why}\n"), description="it is not ready", timeout=30)
    assert get(f"{address}/live") == (200, "ok\n")
    shown, listed, submitted, set_up = with_server.each(
        [["status"], ["status", "--json"], ["submit", "lollygag:SyncOwnersTask", "--args", '["alice"]'], ["setup"]]
    )
    assert (shown.returncode, listed.returncode, submitted.returncode, set_up.returncode) == (0, 0, 0, 0)
    assert any(re.search(r"normal +small .* missing", line) for line in shown.stdout.splitlines())
    assert re.search(
        r"^critical +no worker can take tasks from normal-small: .*diracx-task-run.* setup", shown.stdout, re.M
    )
    queues = json.loads(listed.stdout)["queues"]
    assert [each["subject"].partition(".")[2] for each in queues if each["missing"]] == ["tasks.normal.small"]
    await with_server.wait_for_line("sync alice")
    await wait_until(lambda: get(f"{address}/ready") == (200, "ok\n"), description="it is ready again", timeout=30)
    worker.terminate()
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0, log
    assert log.count("cannot pull") == 1, log
    assert log.count("can pull again, after ") == 1, log
