"""The tasks of the run as an installed distribution."""

from __future__ import annotations

import os
from pathlib import Path

import chaos_tasks
from chaos_tasks import FOLDER_VARIABLE, KINDS, SIZE_VARIABLE, Journaled
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.registry import TaskRegistry
from support.command_line import isolated_environment
from support.distributions import install_metadata, task_points

CATEGORY = "chaos"
NAMESPACE = "diracx"


def install(folder: Path) -> None:
    """Write the distribution's metadata into `folder / "site"`."""
    points = task_points(CATEGORY, chaos_tasks.__name__, [kind.__name__ for kind in KINDS])
    install_metadata(folder / "site", "chaos_tasks", points)


def environment(folder: Path, url: str, size: str) -> dict[str, str]:
    """The environment of a worker that finds the metadata in `folder / "site"`, and the module in this folder."""
    return isolated_environment(folder, url, NAMESPACE) | {
        FOLDER_VARIABLE: str(folder / "journals"),
        SIZE_VARIABLE: size,
        "PYTHONPATH": os.pathsep.join((str(folder / "site"), str(Path(chaos_tasks.__file__).parent))),
    }


def registry(size: str) -> TaskRegistry:
    """The same tasks for the producer, of the size that workers read from their environment."""
    Journaled.size = Size(size)
    tasks = TaskRegistry()
    for kind in KINDS:
        tasks.add(f"{CATEGORY}:{kind.__name__}", kind)
    return tasks
