"""Is this diracx-tasks alone in its environment, and whole?

DiracX has a distribution of the same name, whose files have the names of ours in part. An installer replaces one by the
other. Both stand in one environment after `--ignore-installed`, `--target`, a copied folder, or a second folder of
packages on the path. Then files of one may lie over those of the other.

This module imports nothing of ours, and DiracX's distribution has no module of this name. So it works where the rest
does not. It reads metadata only, and imports none of the code that it finds.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shlex
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

logger = logging.getLogger("diracx.tasks.installation")

NAME: Final = "diracx-tasks"
_THEIR_COMMANDS: Final = "task_run.py"
"""The module of the console script of DiracX's own distribution. None of ours has this name."""
_PAGE: Final = 'see the page "Beside DiracX"'
_FOLDER: Final = Path(__file__).parent


def mixed_installation() -> str | None:
    """Describe in one line that files or metadata of two distributions named diracx-tasks stand in this environment.

    Returns:
        The line, with versions, places and the commands to run; None if this one is alone.
    """
    found = _installed()
    if len(found) < 2 and all(_is_ours(each) for each in found) and not (_FOLDER / _THEIR_COMMANDS).exists():
        return None
    parts = [f"{_described(each)} in {_place(each)}" for each in found]
    if not any(_is_ours(each) for each in found):
        parts.append(f"this one without metadata in {_FOLDER}")
    elif len(found) == 1:
        parts.append(f"files of DiracX's own in {_FOLDER}")
    return f"{NAME} is installed more than once: {' and '.join(parts)}; {_install_again(found)}"


def report_mixed_installation() -> None:
    """Log the line of `mixed_installation`, if there is one."""
    if problem := mixed_installation():
        logger.error(problem)


def incomplete_installation() -> str | None:
    """Describe in one line which files of this distribution are missing, or have another size than it installed.

    Returns:
        The line, with the commands to run; None if all are as they were installed.
    """
    found = [each for each in _installed() if _is_ours(each)]
    for each in found:
        # Not `each.files`, which leaves out missing files from Python 3.12 on.
        rows = csv.reader((each.read_text("RECORD") or "").splitlines())
        if wrong := [path for path, _, size in rows if size and _size(each.locate_file(path)) != int(size)]:
            return (
                f"{_described(each)} in {_place(each)} is incomplete: {len(wrong)} of its files are missing or were "
                f"replaced, such as {wrong[0]}; {_install_again(found)}"
            )
    return None


def _installed() -> list[Distribution]:
    """Return the distributions of this name, in the order of the path; one that is found twice counts once."""
    found: dict[tuple[str, str], Distribution] = {}
    for each in distributions(name=NAME):
        if each.read_text("METADATA") is not None:  # an uninstallation may leave an empty folder
            found.setdefault((each.version, os.path.realpath(_place(each))), each)
    return list(found.values())


def _is_ours(distribution: Distribution) -> bool:
    return "diracx.tasks.cli:" in (distribution.read_text("entry_points.txt") or "")


def _described(distribution: Distribution) -> str:
    return f"{distribution.version} ({'this one' if _is_ours(distribution) else 'the one of DiracX'})"


def _place(distribution: Distribution) -> str:
    return os.path.abspath(str(distribution.locate_file("")))


def _size(path: object) -> int | None:
    try:
        return os.stat(str(path)).st_size
    except OSError:
        return None


def _install_again(found: list[Distribution]) -> str:
    python = shlex.quote(sys.executable)
    if any((each.read_text("INSTALLER") or "").strip() == "uv" for each in found):
        # An environment that uv made has no pip.
        uninstall, install = f"uv pip uninstall --python {python}", f"uv pip install --python {python}"
    else:
        uninstall, install = f"{python} -m pip uninstall --yes", f"{python} -m pip install"
    source = next((_source(each) for each in found if _is_ours(each)), "PATH_OR_URL")
    return f"run `{uninstall} {NAME}` until it finds none, then `{install} {source}` ({_PAGE})"


def _source(distribution: Distribution) -> str:
    """Return the arguments that install this very distribution again."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "url" not in origin:
        return f"{NAME}=={distribution.version}"
    editable = "--editable " if origin.get("dir_info", {}).get("editable") else ""
    return editable + shlex.quote(origin["url"])
