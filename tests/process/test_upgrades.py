"""An earlier version of this project beside the current one, as `upgrades.md` tells.

The earlier one comes from the history of this repository. A shallow clone does not have it: then nothing is tried, and
the reason of the skip says so.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_metadata
from support.paths import TOP

EARLIER = "8e128496ae7a"
"""The last commit before results, groups and cancellations."""

TASK = """
import dataclasses, pathlib
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size

@dataclasses.dataclass
class Note(BaseTask):
    text: str
    size = Size.SMALL
    async def execute(self) -> str:
        with pathlib.Path("journal").open("a") as journal:
            journal.write(self.text + "\\n")
        return self.text
"""


@pytest.fixture
def now(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    """The command line of the current version."""
    site = bare.folder / "site"
    install_metadata(site, "note_tasks", {"diracx.tasks.notes": {"Note": "note_tasks:Note"}})
    (site / "note_tasks.py").write_text(TASK)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return bare


@pytest.fixture
def earlier(now: CommandLine, tmp_path: Path) -> CommandLine:
    """That of the earlier version, with the same tasks, server and folder."""
    archived = subprocess.run(["git", "archive", EARLIER, "diracx_tasks"], cwd=TOP, capture_output=True, check=False)
    if archived.returncode:
        pytest.skip(f"NOT TRIED: two versions side by side, for this clone lacks the commit {EARLIER}")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
        archive.extractall(tmp_path / "earlier", filter="data")
    path = f"{tmp_path / 'earlier' / 'diracx_tasks'}:{now.environment['PYTHONPATH']}"
    return CommandLine(now.environment | {"PYTHONPATH": path}, now.folder, now.started)


def submit(command: CommandLine, text: str) -> str:
    done = command("submit", "notes:Note", "--kwargs", json.dumps({"text": text}))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def keep(command: CommandLine, text: str) -> str:
    """Submit a task whose result is to be kept; nobody waits for it longer than a moment."""
    kwargs = json.dumps({"text": text})
    done = command("submit", "notes:Note", "--kwargs", kwargs, "--wait", "--timeout", "0.1")
    assert done.returncode == 1, done.stderr
    (task_id,) = set(re.findall(r"\b[0-9a-f]{32}\b", done.stderr))
    return str(task_id)


def burst(command: CommandLine) -> str:
    done = command("worker", "--worker-size", "small", "--burst")
    assert done.returncode == 0, done.stderr
    return done.stderr


async def test_two_versions_work_side_by_side(
    now: CommandLine, earlier: CommandLine, on_the_server: OnTheServer
) -> None:
    """Each runs the tasks of the other; what the earlier one does not know, it does not do."""
    later = on_the_server.names.later_stream

    async def subjects() -> int:
        return len((await on_the_server.connection.api(f"STREAM.INFO.{later}"))["config"]["subjects"])

    assert "created stream" in earlier("setup").stdout
    of_earlier = await subjects()
    submit(earlier, "from the earlier one")
    burst(now)  # it may update the assets, and does
    of_now = await subjects()
    assert of_now > of_earlier
    assert now.journal() == ["from the earlier one"]
    # A current worker stops what operators cancelled; an earlier one does not know of it, nor keeps a result.
    cancelled, kept = submit(now, "cancelled"), keep(now, "kept")
    now("cancel", cancelled)
    burst(earlier)
    assert sorted(now.journal()[1:]) == ["cancelled", "kept"]
    assert f"no result of {kept}: " in now("result", kept).stderr
    # An earlier process that may update the assets takes the new subjects away again; `setup` brings them back.
    assert await subjects() == of_earlier
    assert f"updated stream {later}: " in now("setup").stdout
    assert await subjects() == of_now
