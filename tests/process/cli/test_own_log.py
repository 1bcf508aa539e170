"""An extension that takes over the log, the streams and the signals of the process in which it is imported."""

from __future__ import annotations

import json
import signal

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points


@pytest.fixture
def rude(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install_extension(
        bare.folder / "site", "rude_tasks", task_points("rude", "rude_tasks.tasks", ["Silences", "Closes"])
    )
    bare.environment |= {"RUDE_FOLDER": str(bare.folder), "DIRACX_TASKS_NATS_URL": server.url}
    return bare


def test_a_worker_keeps_its_log_in_its_form_and_the_extension_its_file(rude: CommandLine) -> None:
    for arguments in (("rude:Silences",), ("rude:Closes", "--args", '["close"]')):
        done = rude("submit", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = rude("worker", "--worker-size", "small", "--burst", "--log-format", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    messages = [line["message"] for line in lines if line["logger"].startswith("diracx.tasks")]
    assert messages[0].startswith("connected to ")
    assert messages[-1].endswith("ended after 2 deliveries")
    (dropped,) = [line for line in lines if line["message"].startswith("dropped rude:Silences")]
    assert (dropped["attempt"], "the author's" in dropped["message"]) == (1, True)
    assert "THEIRS connected to " in (rude.folder / "theirs.log").read_text()


async def test_a_worker_is_stopped_by_a_signal_that_the_extension_ignores(rude: CommandLine) -> None:
    worker = rude.start("worker", "--worker-size", "small", "--grace", "1")
    assert worker.stderr is not None
    for line in worker.stderr:
        if "tasks known" in line:
            break
    worker.send_signal(signal.SIGTERM)
    await wait_until(lambda: worker.poll() is not None, description="the worker has ended", timeout=30)
    assert worker.returncode == 0
    assert "ended after 0 deliveries" in worker.stderr.read()


def test_a_call_prints_what_its_task_returned_whatever_the_task_did_to_the_streams(rude: CommandLine) -> None:
    for how in ("close", "replace"):
        done = rude("call", "rude:Closes", "--args", f'["{how}"]')
        assert (done.returncode, done.stdout, done.stderr) == (0, "Result: 5\n", "")
    assert [task["name"] for task in rude.json("tasks")] == ["rude:Closes", "rude:Silences"]
