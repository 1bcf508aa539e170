"""Distributions as pip installs them, in a folder that a process puts on its path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.command_line import CommandLine


def pip_install(source: Path, site: Path) -> None:
    """Install what stands in `source`, without what it requires: that is here already."""
    run_python("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(site), str(source))


def run_python(*arguments: str, command_line: CommandLine | None = None, folder: Path | None = None) -> str:
    """Run this Python to the end, in the environment of a command line; what it wrote."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=command_line.environment if command_line else None,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"python {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def run_pytest(folder: Path, command_line: CommandLine) -> str:
    """Run the tests of a distribution as its author would, without what other tests of ours have set."""
    return run_python("-m", "pytest", "-p", "no:cacheprovider", command_line=command_line, folder=folder)
