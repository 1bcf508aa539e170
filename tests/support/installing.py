"""Distributions that pip installs into a folder, and Python with this folder on its path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.command_line import CommandLine


def pip_install(source: Path, site: Path) -> None:
    """Install the project in `source` into `site`, without its requirements, which are installed already."""
    run_python("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(site), str(source))


def run_python(*arguments: str, command_line: CommandLine | None = None, folder: Path | None = None) -> str:
    """Run this Python, which must succeed, in the environment of a command line; return its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=command_line.environment if command_line else None,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"python {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def run_pytest(folder: Path, command_line: CommandLine) -> str:
    """Run the tests in a folder as the author of a distribution would; return the output."""
    return run_python("-m", "pytest", "-p", "no:cacheprovider", command_line=command_line, folder=folder)
