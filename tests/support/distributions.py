"""Writes small distributions into a folder, as an installer would leave them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from support.paths import EXTENSIONS

EntryPoints = Mapping[str, Mapping[str, str]]
"""Group -> name -> `module:attribute`."""


def install_metadata(
    site: Path,
    name: str,
    entry_points: EntryPoints | str,
    *,
    version: str = "1.0",
    requires: Iterable[str] = (),
    folder_name: str | None = None,
) -> Path:
    """Write the metadata of a distribution; return its `.dist-info` folder.

    Args:
        site: The folder that is on the path of whoever imports the distribution.
        name: Of the distribution.
        entry_points: A mapping, or the text of `entry_points.txt`.
        requires: Requirements, such as `gubbins>=1`.
        folder_name: Before `-<version>.dist-info`; the name of the distribution if not given.
    """
    information = site / f"{folder_name or name}-{version}.dist-info"
    information.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (information / "METADATA").write_text("\n".join(lines) + "\n")
    text = entry_points if isinstance(entry_points, str) else _text_of(entry_points)
    (information / "entry_points.txt").write_text(text)
    return information


def _text_of(entry_points: EntryPoints) -> str:
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in entry_points.items()
    )


def task_points(category: str, module: str, tasks: Iterable[str]) -> EntryPoints:
    """The entry points of task classes of one module."""
    return {f"diracx.tasks.{category}": {task: f"{module}:{task}" for task in tasks}}


def install_extension(site: Path, package: str, entry_points: EntryPoints) -> None:
    """Copy a package of `support/extensions` into the folder, and write its metadata."""
    shutil.copytree(EXTENSIONS / package, site / package)
    install_metadata(site, package, entry_points)
