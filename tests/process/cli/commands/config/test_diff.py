"""`config diff`: the text, then the settings; nothing is stored."""

from __future__ import annotations

import json

from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from support.command_line import CommandLine, OnTheServer
from support.terminal import shown

OLD = "vos: [lhcb]\ntasks:\n  lollygag:OwnerCleanupTask: {enabled: true}\n"
NEW = "vos: [lhcb]\ntasks:\n  lollygag:OwnerCleanupTask: {enabled: false}\n"
CLEANUP = "lollygag:OwnerCleanupTask"


async def test_it_shows_the_lines_then_the_settings_and_stores_nothing(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    await bucket.write(OLD)
    (with_server.folder / "mesh.yaml").write_text(NEW)
    done = with_server("config", "diff", "mesh.yaml")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "--- revision 1",
        "+++ mesh.yaml",
        "@@ -1,3 +1,3 @@",
        " vos: [lhcb]",
        " tasks:",
        "-  lollygag:OwnerCleanupTask: {enabled: true}",
        "+  lollygag:OwnerCleanupTask: {enabled: false}",
        "",
        "of                         vo  setting  before  after",
        "lollygag:OwnerCleanupTask  -   enabled  true    false",
    ]
    document = json.loads(with_server("config", "diff", "--json", DIRACX_TASKS_CONFIG="mesh.yaml").stdout)
    assert list(document) == ["revision", "diff", "changes"]
    assert document["revision"] == 1
    assert document["diff"] in done.stdout
    assert [(each["task"], each["before"], each["after"]) for each in document["changes"]] == [
        (CLEANUP, "true", "false")
    ]
    assert await bucket.read() == (OLD, 1)
    assert CLEANUP in shown(with_server, "config", "diff", "mesh.yaml", columns=80)


async def test_the_same_text_changes_nothing_and_another_layout_no_setting(
    with_server: CommandLine, bucket: ConfigurationBucket
) -> None:
    await bucket.write(OLD)
    done = with_server("config", "diff", "-", typed=OLD)
    assert (done.returncode, done.stdout) == (0, "nothing changes\n")
    done = with_server("config", "diff", "-", typed="{vos: [lhcb]}")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-2:] == ["", "no setting changes"]
    assert json.loads(with_server("config", "diff", "-", "--json", typed=OLD).stdout) == {
        "revision": 1,
        "diff": "",
        "changes": [],
    }


async def test_it_compares_with_the_revision_in_force_not_with_an_invalid_one(
    with_server: CommandLine, bucket: ConfigurationBucket, on_the_server: OnTheServer
) -> None:
    await bucket.write(OLD)
    await on_the_server.connection.request(f"$KV.{on_the_server.names.config_bucket}.configuration", b"vos: 7")
    done = with_server("config", "diff", "-", typed=OLD)
    assert done.stdout == "no setting changes\n"
    assert "--- revision 1\n" in with_server("config", "diff", "-", typed=NEW).stdout
    done = with_server("config", "set", "-", typed=OLD)
    assert done.stdout.splitlines()[-1].startswith("revision 3 is in force")


def test_without_a_namespace_or_a_server_it_is_one_line(extension: CommandLine, with_server: CommandLine) -> None:
    done = with_server("config", "diff", "-", typed=OLD)
    assert done.returncode == 69
    assert "does not exist on this server" in done.stderr
    done = extension("config", "diff", "-", typed=OLD, DIRACX_TASKS_NATS_URL="nats://127.0.0.1:1")
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1].startswith("error: cannot connect")
