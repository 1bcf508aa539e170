"""The configuration of a mesh of two VOs, through all its commands, with a real worker that follows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.overrides.configuration import LimitKind
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.configuration_followers import following
from support.distributions import install_extension, task_points
from support.processes import worker_process

TRANSFER, REPORT = "acme:TransferTask", "acme:ReportTask"


def configured(limit: int, vos: str = "lhcb, atlas") -> str:
    return (
        f"vos: [{vos}]\n"
        "tasks:\n"
        f"  {TRANSFER}:\n"
        f"    concurrency_limit: {limit}\n"
        "    vos:\n"
        "      atlas: {rate_limit: {limit: 3, window_seconds: 60}}\n"
        f"limits: {{Job: {{default: {{concurrency_limit: {2 * limit}}}}}}}\n"
        "vo_limits: {lhcb: {Job: {7: {rate_limit: {limit: 1, window_seconds: 9}}}}}\n"
    )


@pytest.fixture
async def acme(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer, tmp_path: Path) -> CommandLine:
    """The command line with the tasks of `vo_tasks`, and the shared server with streams and buckets."""
    points = task_points("acme", "vo_tasks.tasks", ["ReportTask", "TransferTask"])
    install_extension(bare.folder / "site", "vo_tasks", points)
    bare.environment |= {"DIRACX_TASKS_NATS_URL": server.url, "VO_TASKS_FOLDER": str(tmp_path)}
    await on_the_server.set_up()
    return bare


async def test_two_vos_are_configured_compared_shown_and_rolled_back(
    acme: CommandLine, on_the_server: OnTheServer
) -> None:
    async with following(on_the_server.connection, on_the_server.names) as follower:

        def limit() -> object:
            found = follower.current.task_limit(LimitKind.CONCURRENCY, TRANSFER, "lhcb")
            return None if found is None else found.value

        (file := acme.folder / "mesh.yaml").write_text(configured(5))
        done = acme("config", "set", "mesh.yaml")
        assert (done.returncode, done.stderr) == (0, "")
        await wait_until(lambda: limit() == 5, description="the limit is in force")

        file.write_text(configured(6, vos="lhcb, atlas, cms"))
        rows = [line.split() for line in acme("config", "diff", "mesh.yaml").stdout.splitlines()[-5:]]
        assert rows == [
            ["of", "vo", "setting", "before", "after"],
            ["the", "mesh", "-", "vos", "lhcb,", "atlas", "lhcb,", "atlas,", "cms"],
            [REPORT, "cms", "schedule", "-", "every", "3600", "s"],
            [TRANSFER, "-", "concurrency_limit", "5", "6"],
            ["job", "default", "-", "concurrency_limit", "10", "12"],
        ]
        assert limit() == 5

        assert acme("config", "set", "mesh.yaml").returncode == 0
        await wait_until(lambda: limit() == 6, description="the new limit is in force")
        limits = acme.json("config", "show")["limits"]
        assert [(each["kind"], each["vo"], each["limit"], each["path"]) for each in limits] == [
            ("rate_limit", "atlas", 3, f"tasks.{TRANSFER}.vos.atlas"),
            ("concurrency_limit", None, 6, f"tasks.{TRANSFER}"),
            ("concurrency_limit", None, 12, "limits.Job.default"),
            ("rate_limit", "lhcb", 1, "vo_limits.lhcb.Job.7"),
        ]
        assert [each["object"] for each in limits] == [None, None, ["job", "default"], ["job", "7"]]

        assert acme("config", "rollback").returncode == 0
        await wait_until(lambda: limit() == 5, description="the old limit is in force again")


async def test_twenty_of_many_revisions_are_kept_and_the_oldest_can_be_restored(
    acme: CommandLine, on_the_server: OnTheServer
) -> None:
    bucket = ConfigurationBucket(on_the_server.connection, on_the_server.names)
    for number in range(22):
        await bucket.write(configured(100 + number))
    history = ("config", "history")
    document, table, done = acme.each([(*history, "--json"), history, ("config", "rollback", "3")])
    listed = json.loads(document.stdout)
    assert [each["revision"] for each in listed] == list(range(3, 23))
    assert [each["in_force"] for each in listed] == [False] * 19 + [True]
    # Nobody can say what changed in the oldest, since the one before it is gone.
    assert [each["changes"] is None for each in listed] == [True] + [False] * 19
    assert "the revision before is not kept" in table.stdout.splitlines()[1]
    assert done.returncode == 0
    assert (await bucket.read())[0] == configured(102)


async def test_a_worker_follows_a_limit_that_is_raised_and_rolled_back(
    acme: CommandLine, on_the_server: OnTheServer
) -> None:
    assert acme("config", "set", "-", typed=configured(1)).returncode == 0
    with worker_process(acme, Size.SMALL, "--lock-retry-delay", "0.1"):
        submitted = acme.each(("submit", TRANSFER, "--args", f'["{vo}", 1]') for vo in ("lhcb", "atlas", "lhcb"))
        assert [done.returncode for done in submitted] == [0, 0, 0]

        async def others_wait() -> bool:
            info = await on_the_server.connection.api(f"CONSUMER.INFO.{on_the_server.names.tasks_stream}.normal-small")
            return int(info["num_redelivered"]) == 2

        await wait_until(others_wait, description="one runs, and two wait for it", timeout=30)
        assert len(acme.journal()) == 1
        assert acme("config", "set", "-", typed=configured(2)).returncode == 0
        await wait_until(lambda: len(acme.journal()) == 2, description="a second one runs", timeout=30)
        assert acme("config", "rollback").returncode == 0
        acme.release("go")
        await wait_until(lambda: len(acme.journal()) == 3, description="the third one runs", timeout=30)

        async def done() -> bool:
            return await on_the_server.waiting() == 0

        await wait_until(done, description="all are done", timeout=30)
    assert sorted(acme.journal()) == ["begin atlas", "begin lhcb", "begin lhcb"]
