"""The tasks of the run as an installed distribution: what an installer would leave on the path."""

from __future__ import annotations

import os
from pathlib import Path

import chaos_tasks
from chaos_tasks import FOLDER_VARIABLE, KINDS, SIZE_VARIABLE, Journaled
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.registry import TaskRegistry

CATEGORY = "chaos"


def install(folder: Path) -> None:
    """Write the distribution's metadata into `folder / "site"`."""
    information = folder / "site" / "chaos_tasks-1.0.dist-info"
    information.mkdir(parents=True)
    points = "".join(f"{kind.__name__} = chaos_tasks:{kind.__name__}\n" for kind in KINDS)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos_tasks\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[diracx.tasks.{CATEGORY}]\n{points}")


def environment(folder: Path, url: str, size: str) -> dict[str, str]:
    """For a worker that finds the distribution in `folder / "site"`, and its module here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DIRACX_")}
    return kept | {
        "DIRACX_TASKS_NATS_URL": url,
        FOLDER_VARIABLE: str(folder / "journals"),
        SIZE_VARIABLE: size,
        "PYTHONPATH": os.pathsep.join((str(folder / "site"), str(Path(chaos_tasks.__file__).parent))),
    }


def registry(size: str) -> TaskRegistry:
    """The same tasks, for the producer: of the size that workers are told by their environment."""
    Journaled.size = Size(size)
    tasks = TaskRegistry()
    for kind in KINDS:
        tasks.add(f"{CATEGORY}:{kind.__name__}", kind)
    return tasks
