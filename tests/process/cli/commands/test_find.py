"""`find`: tasks by state, name and label."""

from __future__ import annotations

import json
import subprocess

from support.command_line import CommandLine, OnTheServer

FIELDS = "id task state queue submitted until attempts worker since reason args labels locks"


def assert_labels_of_failed_tasks_are_not_known(
    failed: subprocess.CompletedProcess[str], with_others: subprocess.CompletedProcess[str]
) -> None:
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "workers do not keep the labels of what failed" in failed.stderr
    assert (with_others.returncode, with_others.stdout) == (0, "")
    assert with_others.stderr == (
        "no task is found\nworkers do not keep the labels of what failed: none that is failed is listed\n"
    )


async def test_tasks_are_found_by_state_name_and_label(with_server: CommandLine, on_the_server: OnTheServer) -> None:
    worker = with_server.start("worker", "--worker-size", "small", "--max-concurrent-tasks", "1")
    submit = ["submit", "lollygag:Waits", "--args"]
    submitted = with_server.each(
        [[*submit, '["a"]'], [*submit, '["b"]', "--label", "of=atlas", "--label", "n=\x1b[1m"]]
    )
    runs, waits = (done.stdout.strip() for done in submitted)
    await with_server.wait_for_line("begin a")
    table, by_label, by_state, limited, wrong, failed, with_failed = with_server.each(
        [
            ["find"],
            ["find", "--label", "of=atlas", "--json"],
            ["find", "--state", "running", "--state", "dead", "--task", "lollygag:Waits", "--json"],
            ["find", "--limit", "1", "--state", "waiting", "--task", "lollygag:Nobody"],
            ["find", "--label", "atlas"],
            ["find", "--label", "of=atlas", "--state", "failed"],
            ["find", "--label", "of=nobody", "--state", "failed", "--state", "waiting"],
        ]
    )
    lines = [line.split() for line in table.stdout.splitlines()]
    assert lines[0] == ["id", "task", "state", "queue", "submitted", "until", "attempts", "worker", "since", "reason"]
    assert [line[:4] for line in lines[1:]] == [
        [runs, "lollygag:Waits", "running", "normal-small"],
        [waits, "lollygag:Waits", "waiting", "normal-small"],
    ]
    (labelled,) = json.loads(by_label.stdout)
    assert " ".join(labelled) == FIELDS
    assert (labelled["id"], labelled["labels"]) == (waits, {"of": "atlas", "n": "\x1b[1m"})
    assert "\x1b" not in by_label.stdout
    (running,) = json.loads(by_state.stdout)
    assert (running["id"], running["state"], running["args"]) == (runs, "running", {"name": "a"})
    assert f"-{worker.pid}-small" in running["worker"]
    assert f"{running['since'][:19]}Z" in lines[1], "since when it runs"
    assert table.stdout.splitlines()[2].endswith(" all slots of size small are in use: 1 in 1 worker")
    assert (limited.returncode, limited.stdout, limited.stderr) == (0, "", "no task is found\n")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'atlas' is not NAME=VALUE" in wrong.stderr
    assert_labels_of_failed_tasks_are_not_known(failed, with_failed)
    for name in ("a", "b"):
        with_server.release(name)
