"""How `diracx-task-run scheduler` ends when something in it or around it hangs or breaks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.processes import LoggedProcess

# Python imports a module of this name at its start.
BREAKS_THE_FOLLOWER = """
from pathlib import Path
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket

read = ConfigurationBucket.read

async def breaks(bucket):
    if Path("broken").exists():
        raise RuntimeError("boom")
    return await read(bucket)

ConfigurationBucket.read = breaks
"""


async def test_a_scheduler_whose_follower_breaks_gives_up_the_leadership_and_ends_with_one_line(
    bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer
) -> None:
    (bare.folder / "site").mkdir()
    (bare.folder / "site" / "sitecustomize.py").write_text(BREAKS_THE_FOLLOWER)
    scheduler = LoggedProcess(bare, "scheduler", DIRACX_TASKS_NATS_URL=server.url)
    await scheduler.logs("is the leader")
    assert await on_the_server.locks() == 1
    (bare.folder / "broken").touch()
    assert await scheduler.ended() == 70
    assert await on_the_server.locks() == 0
    ended = "configuration follower ended: RuntimeError: boom"
    assert f"{ended}; the process ends, so that it does not run on without it" in scheduler.log
    assert 'raise RuntimeError("boom")' in scheduler.log
    assert scheduler.log.splitlines()[-1] == f"error: {ended}; the process ended, so that it did not run on without it"


@pytest.fixture
def hanging_git(tmp_path: Path) -> Path:
    """A folder with a `git` that never ends, and that writes its process id to `git.pid` there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    git = folder / "git"
    git.write_text(f"#!/bin/sh\necho $$ > {folder}/git.new; mv {folder}/git.new {folder}/git.pid; exec sleep 600\n")
    git.chmod(0o755)
    return folder


async def test_a_git_that_hangs_keeps_no_scheduler_from_its_end(
    bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer, hanging_git: Path
) -> None:
    pytest.importorskip("diracx.core.config")
    scheduler = LoggedProcess(
        bare,
        "scheduler",
        DIRACX_TASKS_NATS_URL=server.url,
        DIRACX_CONFIG_BACKEND_URL=f"git+file://{bare.folder}",
        PATH=f"{hanging_git}:{os.environ['PATH']}",
    )
    pid = hanging_git / "git.pid"
    await wait_until(pid.exists, description="git hangs", timeout=30)
    try:
        assert await scheduler.stop() == 0
        assert await on_the_server.locks() == 0
        assert "ended after 0 occurrences" in scheduler.log
        assert "the process ends without" not in scheduler.log, "it ended by itself"
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_server_that_hangs_keeps_no_scheduler_from_its_end(
    bare: CommandLine, own_server: EmbeddedServer
) -> None:
    scheduler = LoggedProcess(bare, "scheduler", DIRACX_TASKS_NATS_URL=own_server.url)
    await scheduler.logs("is the leader")
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        assert await scheduler.stop() == 0
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert "the connections were not closed within 10 s, so it is ended by force" in scheduler.log
