"""Types the commands of the page "Beside DiracX", and tells what they left.

After each command of a block, this project alone has to be installed. After each command of the table of what never to
run, which starts where this project is installed, what the table says has to be so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = TOP / "diracx_tasks" / "docs" / "beside-diracx.md"
COMMAND_SECONDS = 300
OWN_TASKS = ("CleanSandboxStoreTask", "DummyJobExecutorMonitorTask", "DummyJobExecutorTask")
LIST = """
import importlib.metadata
print(*sorted(d.version for d in importlib.metadata.distributions(name="diracx-tasks")))
"""


class Shell:
    """A shell in a folder with `../diracx-tasks` beside it, in an environment with DiracX's own distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site"
        self.folder.mkdir()
        (folder / "diracx-tasks").symlink_to(TOP)
        self._venv = folder / "venv"
        path = f"{self._venv / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"  # uv is in the second
        kept = {name: value for name, value in os.environ.items() if name not in ("VENV", "PYTHONPATH")}
        self._environment = kept | {"VIRTUAL_ENV": str(self._venv), "PATH": path}

    def type_in(self, command: str) -> str:
        """Run a command as bash does, with what earlier ones exported; return its output.

        Raises:
            RuntimeError: It failed.
        """
        kept = self.folder.parent / "environment"
        script = f"[ ! -e {kept} ] || . {kept}\n{command}\nexport -p | grep -E ' (PIP|UV)_CONSTRAINT=' >{kept} || true"
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        print(f"$ {command}", flush=True)
        if done.returncode:
            raise RuntimeError(f"`{command}` ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def make(self, *distributions: str) -> None:
        """Make the environment anew, with these distributions."""
        (self.folder.parent / "environment").unlink(missing_ok=True)
        shutil.rmtree(self._venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", self._venv], check=True)
        self.type_in(f"uv pip install --quiet {' '.join(distributions)}")

    def installed(self) -> list[str]:
        """Return the versions of all distributions named diracx-tasks."""
        command = [str(self._venv / "bin" / "python"), "-c", LIST]
        listed: str = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return listed.split()


def run() -> list[str]:
    """Type all commands; return what was not as the page says."""
    with tempfile.TemporaryDirectory(prefix="beside-diracx-") as name:
        shell = Shell(Path(name))
        try:
            return [*typed(shell), *never_to_run(shell)]
        except RuntimeError as error:
            return [str(error)]


def typed(shell: Shell) -> list[str]:
    """Type the blocks of the page, in order, in an installation of DiracX."""
    problems = []
    shell.make("diracx-routers==0.7.0")
    output = ""
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        for command in re.findall(r"^\$ (.*)$", block, re.M):
            output = shell.type_in(command)
            (version, *others) = shell.installed() or [""]
            if "+nats." not in version or others:
                problems.append(f"after `{command}`: diracx-tasks {version} {' '.join(others)}")
    # The last command lists the tasks that the page keeps.
    return problems + [f"not listed at the end: {task}" for task in OWN_TASKS if f"jobs:{task}" not in output]


def never_to_run(shell: Shell) -> list[str]:
    """Type each command of the table, where this project is installed and no constraint holds."""
    problems = []
    table = PAGE.read_text().partition("## What never to run")[2].partition("\n## ")[0]
    for command, outcome in re.findall(r"^\| `([^`]+)` \| (replaced|mixed)", table, re.M):
        shell.make("../diracx-tasks", "diracx-routers==0.7.0")
        shell.type_in(command)
        versions = shell.installed()
        ours = [version for version in versions if "+nats." in version]
        if (len(versions), len(ours)) != {"replaced": (1, 0), "mixed": (2, 1)}[outcome]:
            problems.append(f"after `{command}`: diracx-tasks {' '.join(versions)}, and not {outcome}")
    return problems
