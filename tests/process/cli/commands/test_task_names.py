"""Tasks under several names and under odd ones, from the command line to the worker."""

from __future__ import annotations

import json

from support.command_line import CommandLine, OnTheServer
from support.distributions import install_metadata
from support.sample_tasks import message

DIES = "lollygag_tasks.tasks:Dies"
ENTRY_POINTS = {
    "diracx.tasks.old": {
        "EarlierDies": DIES,
        "Cleanup": "lollygag_tasks.tasks:OwnerCleanupTask",
        "Two words": DIES,
        "L" * 300: DIES,
    },
    "diracx.tasks": {"Lost": DIES},
}


async def test_each_name_of_a_class_is_the_one_that_is_stored_run_and_shown_and_an_odd_one_stops_no_other(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    await on_the_server.set_up()
    install_metadata(with_server.folder / "site", "aliases", ENTRY_POINTS)
    asked, own, cleanup, odd = with_server.each(
        [
            ["submit", "old:EarlierDies", "--kwargs", '{"why": "asked"}'],
            ["submit", "lollygag:Dies", "--kwargs", '{"why": "own"}'],
            ["schedule", "run", "old:Cleanup"],
            ["submit", "old:Two words", "--kwargs", '{"why": "odd"}'],
        ]
    )
    assert [each.returncode for each in (asked, own, cleanup, odd)] == [0, 0, 0, 2], odd.stderr
    (error,) = [line for line in odd.stderr.splitlines() if "Two words" in line]
    assert "old:Two words (aliases) is no name of a task: write <category>:<ClassName>" in error
    _, headers, _ = await message(on_the_server.connection, on_the_server.names.tasks_stream, 3)
    assert headers["Task-Name"] == "old:Cleanup"
    worker = with_server("worker", "--worker-size", "small", "--burst")
    assert worker.returncode == 0, worker.stderr
    dead = json.loads(with_server("dlq", "list", "--json").stdout)
    assert sorted((each["task"], each["args"]["why"]) for each in dead) == [
        ("lollygag:Dies", "own"),
        ("old:EarlierDies", "asked"),
    ]
    log = worker.stderr.splitlines()
    for name, done in (("old:EarlierDies", asked), ("lollygag:Dies", own)):
        assert any(name in line and done.stdout.strip() in line for line in log), (name, worker.stderr)
    for problem in ("Two words", "LLL", "Lost", "old:Cleanup are one class"):
        assert len([line for line in log if problem in line and "WARNING" in line]) == 1, (problem, worker.stderr)
