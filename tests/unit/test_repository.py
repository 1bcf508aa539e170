"""The shape of the repository: sizes, names of files, and what its texts must not hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2]
SOURCE_ROOT = TOP / "diracx_tasks"
FOLDERS = (".ci", ".github", "diracx_tasks", "nats", "scripts", "tests")

MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_A_FUNCTION = 40

# A name that fits everything collects everything.
VAGUE_NAMES = {"common", "helper", "helpers", "misc", "models", "util", "utils"}

# What tools leave beside the files they read.
CACHE = re.compile(r"__pycache__|\..*")

# What holds on one machine only: somebody's folders, and the package index that somebody installs from.
LOCAL_TO_A_MACHINE = re.compile(
    r"(?<![\w.~})>*-])/(?:root|home|work|Users)\b"
    r"|\b(?:pypi|python[h]osted|test\.pypi)\.org\b"
    r"|--(?:(?:extra-)?index-url|trusted-host)\b",
    re.IGNORECASE,
)


def _python_files() -> Iterator[Path]:
    for folder in ("diracx_tasks", "tests"):
        yield from sorted((TOP / folder).rglob("*.py"))


def _texts() -> Iterator[tuple[Path, str]]:
    paths = [path for folder in FOLDERS for path in sorted((TOP / folder).rglob("*"))]
    documents = [path for path in sorted(TOP.iterdir()) if not path.name.startswith(".")]
    for path in [*documents, TOP / ".gitignore", *paths]:
        if path.is_file() and not any(CACHE.fullmatch(part) for part in path.relative_to(TOP).parts[1:]):
            yield path, path.read_text(encoding="utf-8")


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    lengths = {str(p.relative_to(TOP)): len(p.read_text("utf-8").splitlines()) for p in _python_files()}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES_IN_A_FILE}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for path in _python_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                long[f"{path.relative_to(TOP)}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1
    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES_IN_A_FUNCTION}


def test_no_file_or_folder_has_a_name_that_fits_everything() -> None:
    assert not [str(p) for p in _python_files() if VAGUE_NAMES & set(p.relative_to(TOP).with_suffix("").parts)]


def test_the_namespace_that_distributions_share_has_no_init() -> None:
    assert not list(SOURCE_ROOT.glob("__init__.py*"))
    assert not list((SOURCE_ROOT / "diracx").glob("__init__.py*"))


def test_the_folder_of_assets_cannot_shadow_the_nats_library() -> None:
    assert not list((TOP / "nats").rglob("*.py"))


def test_the_source_is_marked_as_typed() -> None:
    assert (SOURCE_ROOT / "diracx" / "tasks" / "py.typed").is_file()


def test_no_text_names_what_exists_on_one_machine_only() -> None:
    local = [
        f"{path.relative_to(TOP)}: {found.group()}"
        for path, text in _texts()
        for found in LOCAL_TO_A_MACHINE.finditer(text)
    ]
    assert not local
