"""`config show`: a text, and the limits that it sets with the places where they are written."""

from __future__ import annotations

import json
import re

from diracx.tasks.plumbing.overrides.follower import AUTHOR, ConfigurationBucket
from support.command_line import CommandLine, OnTheServer
from support.terminal import on_terminal, shown

TEXT = """\
vos: [lhcb, atlas]
tasks:
  SyncOwnersTask:
    rate_limit: {limit: 10, window_seconds: 60}
    concurrency_limit: 5
    vos:
      atlas: {concurrency_limit: 2}
"""
SYNC = "lollygag:SyncOwnersTask"


async def test_the_limits_follow_the_text_as_comments(with_server: CommandLine, bucket: ConfigurationBucket) -> None:
    await bucket.write("vos: [lhcb]")
    await bucket.write(TEXT)
    done, only_text = with_server.each([("config", "show"), ("config", "show", "--text")])
    assert done.returncode == 0
    assert done.stdout.startswith(TEXT)
    notes = done.stdout.removeprefix(TEXT).splitlines()
    assert all(line.startswith("# ") for line in notes)
    assert notes[1].startswith("# revision 2, in force, written 20")
    assert notes[1].endswith("Z by alice@node1")
    assert notes[2:] == [
        "# limit on                 vo       kind               limit       set at",
        "# lollygag:SyncOwnersTask  all VOs  rate_limit         10 in 60 s  tasks.SyncOwnersTask",
        "# lollygag:SyncOwnersTask  all VOs  concurrency_limit  5           tasks.SyncOwnersTask",
        "# lollygag:SyncOwnersTask  atlas    concurrency_limit  2           tasks.SyncOwnersTask.vos.atlas",
    ]
    assert only_text.stdout == TEXT
    narrow = shown(with_server, "config", "show", columns=80).splitlines()
    assert narrow[-3:] == [f"# {SYNC}", "#   atlas: concurrency_limit 2", "#   tasks.SyncOwnersTask.vos.atlas"]
    assert max(map(len, narrow[narrow.index("vos: [lhcb, atlas]") :])) <= 80
    wide = shown(with_server, "config", "show", columns=140).splitlines()
    assert wide[-len(notes) :] == notes


async def test_limits_of_locked_objects_are_shown_with_type_key_and_parts(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    await bucket.write(
        "limits: {Lollygag: {default: {concurrency_limit: 10}, 'CERN-DST': {Remove: {rate_limit: {limit: 3, "
        "window_seconds: 0.5}}}}}\n"
        "vo_limits: {lhcb: {Lollygag: {default: {concurrency_limit: 1, rate_limit: {limit: 2, window_seconds: 60}}}}}"
    )
    done, history = with_server.each([("config", "show"), ("config", "history")])
    rows = [re.split(r"  +", line.removeprefix("# ")) for line in done.stdout.splitlines()[4:]]
    assert rows[1:] == [
        ["lollygag CERN-DST Remove", "all VOs", "rate_limit", "3 in 0.5 s", "limits.Lollygag.CERN-DST.Remove"],
        ["lollygag default", "all VOs", "concurrency_limit", "10", "limits.Lollygag.default"],
        ["lollygag default", "lhcb", "rate_limit", "2 in 60 s", "vo_limits.lhcb.Lollygag.default"],
        ["lollygag default", "lhcb", "concurrency_limit", "1", "vo_limits.lhcb.Lollygag.default"],
    ]
    summary = history.stdout.splitlines()[1]
    assert "lollygag default rate_limit of lhcb: - -> 2 in 60 s; and 1 more" in summary


async def test_the_json_has_the_limits_beside_revision_and_text(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    assert with_server.json("config", "show") == {"revision": 0, "text": "", "limits": []}
    await bucket.write(TEXT)
    document = with_server.json("config", "show")
    assert list(document) == ["revision", "text", "limits"]
    assert (document["revision"], document["text"]) == (1, TEXT)
    assert document["limits"][0] == {
        "task": SYNC,
        "object": None,
        "kind": "rate_limit",
        "vo": None,
        "limit": 10,
        "window_seconds": 60.0,
        "path": "tasks.SyncOwnersTask",
    }
    assert [(each["vo"], each["limit"]) for each in document["limits"]] == [(None, 10), (None, 5), ("atlas", 2)]


async def test_an_earlier_revision_is_shown_while_it_is_kept(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    for number in range(22):
        await bucket.write(f"vos: [vo{number}]")
    third, done = with_server.each(("config", "show", "--revision", number) for number in "32")
    lines = third.stdout.splitlines()
    assert lines[0] == "vos: [vo2]"
    assert lines[2].startswith("# revision 3, not in force, ")
    assert lines[3:] == ["# it sets no limits"]
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: revision 2 is not kept; kept: 3 to 22; see ")


async def test_a_text_that_was_written_past_the_check_is_shown_with_its_fault(
    with_server: CommandLine, bucket: ConfigurationBucket, on_the_server: OnTheServer
) -> None:
    subject = f"$KV.{on_the_server.names.config_bucket}.configuration"
    await on_the_server.connection.request(subject, b"vos: 7")
    done, document = with_server.each([("config", "show"), ("config", "show", "--json")])
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "vos: 7"
    assert done.stdout.splitlines()[-1] == "# it is not valid"
    assert done.stderr.startswith("warning: revision 1 is not valid: vos: ")
    assert done.stderr.endswith("; none that is kept is valid, so put a valid one with `diracx-task-run config set`\n")
    assert json.loads(document.stdout) == {"revision": 1, "text": "vos: 7", "limits": None}
    await bucket.write("vos: []")
    assert "stays in force" not in with_server("config", "show", "--revision", "1").stderr
    await on_the_server.connection.request(subject, b"vos: 7")
    assert "an earlier one stays in force" in with_server("config", "show").stderr
    await on_the_server.connection.request(subject, b"", headers={"KV-Operation": "DEL"})
    empty, done = with_server.each([("config", "show"), ("config", "show", "--revision", "4")])
    assert (empty.returncode, empty.stdout) == (0, "")
    assert empty.stderr.splitlines()[-1].startswith("no configuration is set in namespace ")
    assert done.returncode == 2
    assert "revision 4 has no text: it was removed by hand" in done.stderr


async def test_neither_a_text_nor_an_author_controls_a_terminal(
    with_server: CommandLine, bucket: ConfigurationBucket, on_the_server: OnTheServer
) -> None:
    await bucket.write("vos: [lhcb]")
    subject = f"$KV.{on_the_server.names.config_bucket}.configuration"
    await on_the_server.connection.request(subject, b"# \x1b[31m", headers={AUTHOR: "\x1b[2J"})
    for command in ("show", "history", "rollback 2"):
        with on_terminal(with_server, "config", *command.split(), NO_COLOR="1", TERM="dumb") as terminal:
            terminal.read_to_the_end()
            assert "\x1b[31m" not in terminal.written
            assert "\x1b[2J" not in terminal.written
        if command != "rollback 2":
            assert "\\x1b[2J" in terminal.text


async def test_a_pipe_reads_back_exactly_the_text(with_server: CommandLine, bucket: ConfigurationBucket) -> None:
    await bucket.write(TEXT.rstrip("\n"))
    done = with_server("config", "diff", "-", "--json", typed=with_server("config", "show").stdout)
    assert json.loads(done.stdout) == {"revision": 1, "diff": "", "changes": []}
