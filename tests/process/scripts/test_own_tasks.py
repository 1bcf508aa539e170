"""`scripts/diracx-own-tasks` without the download: a wheel of one folder of another one, beside this project."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.command_line import CommandLine
from support.installing import run_python
from support.paths import OWN_TASKS

JOBS = """
from diracx.tasks.plumbing.base_task import BaseTask

class ClearTask(BaseTask):
    async def execute(self):
        return "cleared"
"""
POINTS = """
[console_scripts]
diracx-tasks = diracx.tasks.task_run:main

[diracx.tasks.jobs]
ClearTask = diracx.tasks.jobs:ClearTask
"""


def theirs(folder: Path, points: str = POINTS) -> Path:
    """A wheel with the shape of DiracX's own diracx-tasks."""
    information = "diracx_tasks-0.9.0.dist-info"
    path = folder / "diracx_tasks-0.9.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("diracx/tasks/__init__.py", "raise ImportError('the other distribution')\n")
        wheel.writestr("diracx/tasks/jobs/__init__.py", JOBS)
        wheel.writestr("diracx/tasks/jobs/data/", "")
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: diracx-tasks\nVersion: 0.9.0\n")
        wheel.writestr(f"{information}/entry_points.txt", points)
        wheel.writestr(f"{information}/licenses/LICENSE", "the licence")
    return path


def test_the_tasks_of_diracx_stand_beside_ours_with_their_licence_and_nothing_else(bare: CommandLine) -> None:
    told = run_python(str(OWN_TASKS), str(theirs(bare.folder)), str(bare.folder / "made"))
    (wheel,) = (bare.folder / "made").iterdir()
    assert f"pip install {wheel}\n" in told
    site = bare.folder / "site"
    run_python("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    (information,) = site.glob("*.dist-info")
    assert (information / "licenses" / "LICENSE").read_text() == "the licence"
    assert not (site / "diracx" / "tasks" / "__init__.py").exists()
    (task,) = (task for task in bare.json("tasks") if task["name"].startswith("jobs:"))
    assert (task["name"], task["distribution"]) == ("jobs:ClearTask", "diracx-tasks-jobs")
    called = bare("call", "jobs:ClearTask")
    assert (called.stdout, called.stderr.count("more than once")) == ("Result: cleared\n", 0)


@pytest.mark.parametrize("points", ["", "[diracx.tasks.other]\nA = b:C\n"])
def test_a_wheel_without_such_tasks_is_refused(tmp_path: Path, points: str) -> None:
    done = subprocess.run(
        [sys.executable, str(OWN_TASKS), str(theirs(tmp_path, points)), str(tmp_path / "made")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: diracx_tasks-0.9.0-py3-none-any.whl has no entry points diracx.tasks.jobs")
    assert not (tmp_path / "made").exists()
