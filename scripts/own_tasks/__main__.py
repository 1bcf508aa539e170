"""Takes the folder `diracx/tasks/jobs` out of a wheel of DiracX's diracx-tasks, and makes a wheel of it.

The files are copied as they are, with their licence. Nothing of them is read, and nothing of the rest is taken: that
would lie over the files of this project.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import hashlib
import io
import zipfile
from email.parser import BytesHeaderParser
from pathlib import Path

NAME = "diracx-tasks-jobs"
FOLDER = "diracx/tasks/jobs/"
GROUP = "diracx.tasks.jobs"


def build(source: Path, folder: Path) -> Path:
    """Make the wheel; return its path.

    Args:
        source: A wheel of DiracX's diracx-tasks.
        folder: Where the new wheel is put. It is made if need be.

    Raises:
        SystemExit: The wheel has no such tasks, or not their licence.
    """
    with zipfile.ZipFile(source) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
    (metadata,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    theirs = metadata.removesuffix("METADATA")
    version = BytesHeaderParser().parsebytes(files[metadata])["Version"]
    points = configparser.RawConfigParser(delimiters="=")
    points.optionxform = str  # type: ignore[method-assign, assignment]  # names of classes keep their case
    points.read_string(files.get(f"{theirs}entry_points.txt", b"").decode())
    licences = {name for name in files if name.startswith(f"{theirs}licenses/")}
    if not points.has_section(GROUP) or not licences:
        raise SystemExit(f"error: {source.name} has no entry points {GROUP}, or no licence; choose another version")
    ours = f"{NAME.replace('-', '_')}-{version}.dist-info/"
    kept = {name: content for name, content in files.items() if name.startswith(FOLDER)}
    kept |= {name.replace(theirs, ours): files[name] for name in licences}
    kept[f"{ours}METADATA"] = _metadata(version, [name.removeprefix(f"{theirs}licenses/") for name in licences])
    kept[f"{ours}WHEEL"] = b"Wheel-Version: 1.0\nGenerator: own_tasks\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = [f"{name} = {value}\n" for name, value in points.items(GROUP)]
    kept[f"{ours}entry_points.txt"] = f"[{GROUP}]\n{''.join(lines)}".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ours.removesuffix('.dist-info/')}-py3-none-any.whl"
    _write(path, kept, f"{ours}RECORD")
    return path


def _metadata(version: str, licences: list[str]) -> bytes:
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {NAME}",
        f"Version: {version}",
        f"Summary: The tasks of DiracX itself, unmodified from diracx-tasks {version}",
        "License-Expression: GPL-3.0-only",
        *(f"License-File: {name}" for name in sorted(licences)),
        # Not `diracx-tasks[diracx]`: pip 23.2 cannot join an extra with the URL of a constraint.
        *(f"Requires-Dist: {name}" for name in ("diracx-core", "diracx-db", "diracx-logic", "diracx-tasks")),
        "Requires-Python: >=3.11",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _write(path: Path, files: dict[str, bytes], record: str) -> None:
    rows = io.StringIO()
    for name, content in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.write(f"{name},sha256={digest},{len(content)}\n")
    rows.write(f"{record},,\n")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in {**files, record: rows.getvalue().encode()}.items():
            wheel.writestr(name, content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="diracx-own-tasks", description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    made = build(arguments.wheel, arguments.folder)
    print(f"{made} is made; its code is DiracX's, under GPL-3.0. Install it beside this project:")
    print(f"  pip install {made}")
