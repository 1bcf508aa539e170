"""`config set`: what it says, stores and refuses."""

from __future__ import annotations

import getpass
import json
import socket

from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from support.command_line import CommandLine

TEXT = "tasks: {lollygag:OwnerCleanupTask: {schedule: {interval: 60}}}  # often\n"


async def test_it_says_what_changes_then_the_revision_and_keeps_the_author(
    with_server: CommandLine, bucket: ConfigurationBucket, namespace: str
) -> None:
    done = with_server("config", "set", "-", typed=TEXT)
    assert done.returncode == 0
    assert [line.split("  ") for line in done.stdout.splitlines()][1:] == [
        ["lollygag:OwnerCleanupTask", "-", " schedule", "every 3600 s", "every 60 s"],
        [f"revision 1 is in force in namespace {namespace}"],
    ]
    (revision,) = await bucket.revisions()
    assert (revision.text, revision.author) == (TEXT, f"{getpass.getuser()}@{socket.gethostname()}")


async def test_the_text_in_force_makes_no_new_revision_and_a_comment_does(
    with_server: CommandLine, bucket: ConfigurationBucket, namespace: str
) -> None:
    await bucket.write(TEXT)
    done = with_server("config", "set", "-", typed=TEXT)
    assert done.stdout == f"nothing changes\nrevision 1 is in force in namespace {namespace}\n"
    done = with_server("config", "set", "-", typed=TEXT.replace("often", "more often"))
    assert done.stdout == f"no setting changes\nrevision 2 is in force in namespace {namespace}\n"
    assert with_server("config", "set", "-", "--json", typed=TEXT).stdout == '{\n  "revision": 3,\n  "changes": []\n}\n'


async def test_what_show_prints_can_be_edited_and_set(with_server: CommandLine, bucket: ConfigurationBucket) -> None:
    await bucket.write(TEXT)
    shown = with_server("config", "show").stdout
    assert shown.startswith(TEXT)
    assert len(shown.splitlines()) > 2
    done = with_server("config", "set", "-", "--json", typed=shown.replace("60", "90"))
    (change,) = json.loads(done.stdout)["changes"]
    assert change == {
        "task": "lollygag:OwnerCleanupTask",
        "object": None,
        "vo": None,
        "setting": "schedule",
        "before": "every 60 s",
        "after": "every 90 s",
    }
    assert (await bucket.read())[0] == TEXT.replace("60", "90")


async def test_what_does_not_fit_the_installed_tasks_is_refused_and_what_is_not_installed_is_a_warning(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    text = (
        "tasks:\n"
        "  lollygag:Gone: {concurrency_limit: 1}\n"
        "  lollygag:SyncOwnersTask: {schedule: {interval: 60}}\n"
        "  lollygag:OwnerCleanupTask: {entries: {x: {args: {why: mice}}}}\n"
    )
    for command in ("set", "diff"):
        done = with_server("config", command, "-", typed=text)
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        begins = [
            "warning: tasks.lollygag:Gone: no task of that name is installed here",
            "warning: lollygag:Gone (lollygag_tasks) cannot be loaded",
            "error: <stdin>: tasks.lollygag:SyncOwnersTask.schedule: ",
            "error: <stdin>: tasks.lollygag:OwnerCleanupTask.entries.x.args: ",
        ]
        assert [line.startswith(begin) for line, begin in zip(lines, begins, strict=True)] == [True] * 4, lines
    assert await bucket.revisions() == []
    await bucket.write(text)
    await bucket.write("vos: []")
    done = with_server("config", "rollback")
    assert done.returncode == 2
    assert "error: revision 1: tasks.lollygag:SyncOwnersTask.schedule: " in done.stderr
    assert (await bucket.read())[1] == 2


async def test_a_file_that_is_not_valid_is_refused_in_one_line(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    await bucket.write(TEXT)
    says = {
        b"vo: [lhcb]": "vo: ",
        b"": "empty",
        b"# nothing\n": "empty",
        b"tasks: {a:B: {concurrency_limit: 0}}": "tasks.a:B.concurrency_limit: 0",
        b"\xff": "can't decode",
    }
    for number, text in enumerate(says):
        (with_server.folder / f"bad{number}.yaml").write_bytes(text)
    files = [f"bad{number}.yaml" for number in range(len(says))]
    for command in ("set", "diff"):
        found = with_server.each(("config", command, file) for file in files)
        for file, words, done in zip(files, says.values(), found, strict=True):
            assert (done.returncode, done.stdout) == (2, "")
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"error: {file}: ")
            assert words in line
    assert (await bucket.read())[0] == TEXT
