"""What an import brings with it, seen from a fresh interpreter."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from diracx.tasks.cli import declared

REPORT = "import sys, importlib; [*map(importlib.import_module, sys.argv[1:])]; print(*sorted(sys.modules), sep='\\n')"
COMMAND_LINE = {"click", "rich_click", "rich"}
INJECTION = {"fast_depends", "pydantic"}
DIRACX = {"diracx.core", "diracx.db", "sqlalchemy", "opensearchpy"}


def modules_after_importing(folder: Path, *names: str) -> set[str]:
    # Isolated, and in an empty folder: neither the environment nor a folder named `nats` changes the answer.
    command = [sys.executable, "-I", "-c", REPORT, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "base_task",
        "enums",
        "exceptions",
        "lock_registry",
        "locks",
        "registry",
        "retry_policies",
        "schedules",
        "wire.fields",
    ],
)
def test_defining_a_task_brings_no_broker_injection_or_command_line(module: str, tmp_path: Path) -> None:
    brought = modules_after_importing(tmp_path, f"diracx.tasks.plumbing.{module}")
    assert not brought & ({"nats"} | COMMAND_LINE | INJECTION)


def test_asking_for_dependencies_brings_no_broker_and_no_command_line(tmp_path: Path) -> None:
    assert not modules_after_importing(tmp_path, "diracx.tasks.depends") & ({"nats"} | COMMAND_LINE)


def test_the_broker_brings_no_command_line(tmp_path: Path) -> None:
    brought = modules_after_importing(tmp_path, "diracx.tasks.plumbing.jetstream")
    assert "nats" in brought
    assert not brought & COMMAND_LINE


def test_the_broker_brings_the_library_for_websockets_when_nats_py_uses_it(tmp_path: Path) -> None:
    assert find_spec("aiohttp")
    assert "aiohttp" not in modules_after_importing(tmp_path, "diracx.tasks.plumbing.jetstream")
    program = (
        "import sys, diracx.tasks.plumbing.jetstream; from nats.aio import transport; transport.aiohttp.ClientSession; "
        "import aiohttp; print(aiohttp.ClientSession is transport.aiohttp.ClientSession)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_command_line_brings_no_test_library(tmp_path: Path) -> None:
    assert "pytest" not in modules_after_importing(tmp_path, "diracx.tasks.cli.app")


def test_the_command_line_starts_without_what_only_some_commands_need(tmp_path: Path) -> None:
    brought = modules_after_importing(tmp_path, "diracx.tasks.cli.app")
    assert "click" in brought
    assert not brought & {"rich", "rich_click", "msgspec", "nats", "yaml", "asyncio", "pkgutil", "importlib.metadata"}


def test_a_help_page_does_without_what_the_command_needs(tmp_path: Path) -> None:
    places = [found.name for found in pkgutil.iter_modules(declared.__path__, f"{declared.__name__}.")]
    assert len(places) == 8
    brought = modules_after_importing(tmp_path, *places)
    assert "rich_click" in brought
    assert not brought & {"rich", "msgspec", "nats", "yaml", "asyncio", "importlib.metadata"}


def test_a_worker_starts_without_what_only_some_meshes_need(tmp_path: Path) -> None:
    brought = modules_after_importing(tmp_path, "diracx.tasks.cli.commands.worker")
    assert "nats" in brought
    assert not brought & ({"rich", "yaml", "croniter", "dateutil", "zoneinfo", "difflib"} | INJECTION)


ARCHIVE = """
import sys
sys.path.append(sys.argv[1])
import diracx.tasks.jobs, diracx.tasks.plumbing
print(diracx.tasks.jobs.NAME, "pkgutil" in sys.modules)
"""


def test_packages_of_others_are_found_in_folders_and_in_archives(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "diracx" / "tasks").mkdir(parents=True)
    (folder / "diracx" / "tasks" / "jobs.py").write_text("NAME = 'in a folder'")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as written:
        for name in ("diracx/", "diracx/tasks/"):
            written.writestr(name, "")
        written.writestr("diracx/tasks/jobs.py", "NAME = 'in an archive'")
    answers = [
        subprocess.run([sys.executable, "-I", "-c", ARCHIVE, str(place)], capture_output=True, text=True, timeout=60)
        for place in (folder, archive)
    ]
    assert [(answer.stdout, answer.stderr) for answer in answers] == [
        ("in a folder False\n", ""),
        ("in an archive True\n", ""),
    ]


@pytest.mark.parametrize("module", ["plumbing.worker", "plumbing.injection.resources", "plumbing.depends", "cli.app"])
def test_tasks_that_need_nothing_of_diracx_do_not_bring_it(module: str, tmp_path: Path) -> None:
    assert not modules_after_importing(tmp_path, f"diracx.tasks.{module}") & DIRACX


def test_the_package_loads_none_of_the_names_that_it_serves(tmp_path: Path) -> None:
    brought = modules_after_importing(tmp_path, "diracx.tasks.plumbing")
    assert {name for name in brought if name.startswith("diracx.")} == {"diracx.tasks", "diracx.tasks.plumbing"}
    assert not brought & ({"nats", "msgspec", "fastapi"} | INJECTION | DIRACX)


def test_tasks_without_dependencies_are_prepared_without_the_engine_of_injection(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PREPARED], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


PREPARED = """
import sys
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.locks.fencing import FencingToken

class Plain(BaseTask):
    async def execute(self):
        pass

class Fenced(BaseTask):
    async def execute(self, token: FencingToken):
        pass

for task in (Plain, Fenced):
    Resources().prepare(task, "acme:Task")
    print("fast_depends" in sys.modules)
"""

STAR_IMPORT = """
import sys
sys.modules |= dict.fromkeys(("diracx.core", "fastapi", "pydantic"))
before = {*globals(), "before"}
from diracx.tasks.plumbing import *
print(*sorted({*globals()} - before))
try:
    from diracx.tasks.plumbing import Config
except ImportError as error:
    print(error)
"""


def test_a_star_import_works_without_the_packages_of_diracx(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", STAR_IMPORT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    names, refusal = done.stdout.splitlines()
    assert len(names.split()) == 45
    assert not {"Config", "AvailableSecurityProperties"} & set(names.split())
    assert refusal == "Config needs diracx-core: pip install 'diracx-tasks[diracx]'"


@pytest.mark.parametrize(
    "module",
    ["cli.commands.worker", "cli.commands.scheduler", "cli.commands.submit", "plumbing.worker", "plumbing.jetstream"],
)
def test_nothing_of_telemetry_is_brought_before_somebody_asks(module: str, tmp_path: Path) -> None:
    brought = modules_after_importing(tmp_path, f"diracx.tasks.{module}")
    assert not [name for name in brought if name.startswith("opentelemetry")]


EVERY_MODULE = """
import importlib, pkgutil
import diracx.tasks
for module in pkgutil.walk_packages(diracx.tasks.__path__, "diracx.tasks."):
    if not module.name.endswith(("__main__", "supervisor")):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_every_module_is_imported_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-X", "dev", "-W", "error", "-c", EVERY_MODULE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) > 200
