"""The command line where DiracX's own diracx-tasks stands beside this one, and packages of others below ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from support.command_line import CommandLine
from support.distributions import install_metadata
from support.installing import run_python
from support.paths import SOURCE_ROOT

THEIRS = {"console_scripts": {"diracx-tasks": "diracx.tasks.task_run:main"}}
JOB = """
from diracx.tasks.plumbing.base_task import BaseTask

class KeptTask(BaseTask):
    async def execute(self):
        return "kept"
"""


@pytest.fixture
def mixed(bare: CommandLine) -> CommandLine:
    """The metadata of DiracX's own distribution on the path; the code is ours."""
    install_metadata(bare.folder / "site", "diracx-tasks", THEIRS, version="0.7.0", folder_name="diracx_tasks")
    return bare


@pytest.fixture
def copied(mixed: CommandLine) -> Path:
    """Our code too stands in the folder that has the metadata, as a wheel leaves it."""
    site = mixed.folder / "site"
    shutil.copytree(SOURCE_ROOT / "diracx", site / "diracx", ignore=shutil.ignore_patterns("__pycache__"))
    return site / "diracx" / "tasks"


def test_every_command_tells_a_mixed_installation_and_goes_on(mixed: CommandLine) -> None:
    for arguments, code in ((("tasks",), 0), (("status",), 69)):
        done = mixed(*arguments)
        assert done.returncode == code, done.stderr
        (line,) = (line for line in done.stderr.splitlines() if "more than once" in line)
        assert f"0.7.0 (the one of DiracX) in {mixed.folder / 'site'}" in line


def test_a_worker_tells_it_in_its_log(mixed: CommandLine, server: EmbeddedServer) -> None:
    done = mixed("worker", "--worker-size", "small", "--burst", "--nats-url", server.url, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    (told,) = (line for line in map(json.loads, done.stderr.splitlines()) if "more than once" in line["message"])
    assert (told["level"], told["logger"]) == ("error", "diracx.tasks.installation")


def test_a_shell_that_completes_a_word_is_not_told(mixed: CommandLine) -> None:
    completing = {"_DIRACX_TASK_RUN_COMPLETE": "bash_complete", "COMP_WORDS": "diracx-task-run st", "COMP_CWORD": "1"}
    done = mixed(**completing)
    assert "plain,status" in done.stdout
    assert done.stderr == ""


def test_files_of_diracx_over_ours_are_an_error_of_one_line(mixed: CommandLine, copied: Path) -> None:
    (copied / "plumbing" / "exceptions.py").write_text("class TaskError(Exception): ...\n")
    done = subprocess.run(
        [sys.executable, "-m", "diracx.tasks.cli", "tasks"],
        env=mixed.environment,
        cwd=mixed.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 70
    assert line.startswith("error: diracx-tasks is installed more than once: 0.7.0 (the one of DiracX) in ")
    assert "; ImportError: cannot import name " in line


def test_a_second_copy_of_the_package_gives_no_modules_to_the_first(mixed: CommandLine, copied: Path) -> None:
    """The other one is that of the environment of these tests."""
    told = run_python("-c", "import diracx.tasks; print(*diracx.tasks.__path__)", command_line=mixed)
    assert told == f"{copied}\n"


def test_a_package_of_another_distribution_below_ours_is_found(bare: CommandLine) -> None:
    """Also where ours is installed as editable, as in the environment of these tests."""
    jobs = bare.folder / "site" / "diracx" / "tasks" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "__init__.py").write_text(JOB)
    points = {"diracx.tasks.jobs": {"KeptTask": "diracx.tasks.jobs:KeptTask"}}
    install_metadata(bare.folder / "site", "kept-tasks", points)
    listed = bare("tasks")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "jobs:KeptTask" in listed.stdout
    assert bare("call", "jobs:KeptTask").stdout == "Result: kept\n"
