"""`config rollback` and `config history`."""

from __future__ import annotations

import json

from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from support.command_line import CommandLine, OnTheServer

FIRST = "tasks: {lollygag:OwnerCleanupTask: {enabled: false}}"
SECOND = "tasks: {lollygag:OwnerCleanupTask: {enabled: true}}"
CLEANUP = "lollygag:OwnerCleanupTask"


async def test_the_one_before_comes_back_as_a_new_revision_and_so_does_the_one_after(
    with_server: CommandLine, bucket: ConfigurationBucket, namespace: str
) -> None:
    for text in (FIRST, SECOND):
        await bucket.write(text)
    rollback, history = ("config", "rollback"), ("config", "history")
    done = with_server(*rollback)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("back to revision 1, written 20")
    assert lines[0].endswith("Z by alice@node1")
    assert lines[2].split() == [CLEANUP, "-", "enabled", "true", "false"]
    assert lines[3] == f"revision 3 is in force in namespace {namespace}"
    assert await bucket.read() == (FIRST, 3)
    again, as_document, as_table = with_server.each([(*rollback, "--json"), (*history, "--json"), history])
    document = json.loads(again.stdout)
    assert list(document) == ["revision", "restored", "changes"]
    assert (document["revision"], document["restored"], len(document["changes"])) == (4, 2, 1)
    listed = json.loads(as_document.stdout)
    assert [(each["revision"], each["in_force"], each["same_as"]) for each in listed] == [
        (1, False, None),
        (2, False, None),
        (3, False, 1),
        (4, True, 2),
    ]
    assert list(listed[0]) == ["revision", "written", "author", "in_force", "same_as", "problem", "changes"]
    assert [len(each["changes"]) for each in listed] == [1, 1, 1, 1]
    table = as_table.stdout.splitlines()
    assert table[0].split() == ["revision", "written", "author", "in", "force", "changes"]
    assert table[4].endswith(f"yes       as revision 2: {CLEANUP} enabled: false -> true")
    assert "alice@node1" in table[1]


async def test_a_revision_is_named_and_the_one_in_force_changes_nothing(
    with_server: CommandLine, bucket: ConfigurationBucket, namespace: str
) -> None:
    for text in (FIRST, SECOND, "vos: []"):
        await bucket.write(text)
    to_third, to_first = with_server.each(("config", "rollback", number) for number in "31")
    assert to_third.stdout.splitlines()[1:] == ["nothing changes", f"revision 3 is in force in namespace {namespace}"]
    assert to_first.returncode == 0
    assert await bucket.read() == (FIRST, 4)


async def test_there_may_be_nothing_to_go_back_to(
    with_server: CommandLine, bucket: ConfigurationBucket, on_the_server: OnTheServer
) -> None:
    done, refused = with_server.each([("config", "history"), ("config", "rollback")])
    assert (done.returncode, done.stdout) == (0, "")
    assert "no configuration was ever set" in done.stderr
    assert "no configuration is set" in refused.stderr
    await bucket.write(FIRST)
    await bucket.write(f"{FIRST}\n")
    done = with_server("config", "rollback")
    assert done.returncode == 2
    assert "no earlier revision with another text is kept" in done.stderr
    subject = f"$KV.{on_the_server.names.config_bucket}.configuration"
    await on_the_server.connection.request(subject, b"", headers={"KV-Operation": "DEL"})
    *refusals, done = with_server.each(("config", "rollback", *revision) for revision in (("3",), ("4",), ()))
    for refused, says in zip(refusals, ("3 has no text", "4 is not kept; kept: 1 to 3"), strict=True):
        assert refused.returncode == 2
        assert f"revision {says}" in refused.stderr.splitlines()[-1]
    assert done.returncode == 0
    assert await bucket.read() == (f"{FIRST}\n", 4)


async def test_an_invalid_text_is_replaced_by_the_one_in_force_and_never_restored(
    with_server: CommandLine, bucket: ConfigurationBucket, on_the_server: OnTheServer
) -> None:
    await bucket.write(FIRST)
    await on_the_server.connection.request(f"$KV.{on_the_server.names.config_bucket}.configuration", b"vos: 7")
    rollback = ("config", "rollback")
    history, refused, done = with_server.each([("config", "history"), (*rollback, "2"), rollback])
    *_, first, second = history.stdout.splitlines()
    assert "  yes  " in first
    assert "  yes  " not in second
    assert "it is not valid: vos: " in second
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: revision 2: vos: ")
    assert done.stdout.splitlines()[1] == "no setting changes"
    assert await bucket.read() == (FIRST, 3)
