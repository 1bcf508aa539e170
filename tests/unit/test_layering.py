"""The shape of the source, read from its syntax trees; nothing is imported here.

`diracx_tasks/docs/architecture.md` has the one list of floors, in a block that starts with ```layers. A new module
belongs on one of them, or these tests fail.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE_ROOT = Path(__file__).parents[2] / "diracx_tasks"
ARCHITECTURE = SOURCE_ROOT / "docs" / "architecture.md"
ROOT = "diracx.tasks"

MAX_FILES_AT_THE_FIRST_LEVEL_OF_PLUMBING = 12
MIN_LINES_OF_A_FILE_WITH_ONE_IMPORTER = 35

# The packages around the layers. They import nothing of ours, since an import of any module runs them first.
BARE_PACKAGES = {"", "plumbing"}

# Modules that are imported by a string, when they are needed: the providers of OpenTelemetry. `plumbing` serves public
# names from a table besides, see `test_public_imports.py`.
LOADED_ON_DEMAND = {
    ("cli.processes.telemetry", f"{ROOT}.cli.processes.telemetry_providers"),
    ("cli.processes.event_loop", "uvloop"),  # an extra that need not be installed
    # For the completion of a task's name, and for the log: neither a help page nor any other completion needs them.
    ("cli.options", f"{ROOT}.cli.installed"),
    ("cli.options", f"{ROOT}.cli.logs"),
    ("cli.options", f"{ROOT}.installation"),
    ("cli.commands.dashboard", f"{ROOT}.dashboard.serving"),  # an extra that need not be installed
    ("cli", f"{ROOT}.cli.app"),  # which cannot be imported where files of another distribution lie over ours
    ("cli", f"{ROOT}.installation"),  # which only a failed import asks for, and which costs more than a help page
}

# The modules that may import a library. Web applications import task modules, too, so most of the code does without.
OWNERS = {
    "nats": ("plumbing.jetstream",),
    "fast_depends": ("plumbing.injection",),
    "click": ("cli",),
    "rich_click": ("cli",),
    "rich": ("cli",),
    "opentelemetry": ("plumbing.observability.otel", "cli.processes.telemetry_providers"),
    "jinja2": ("dashboard",),
    "starlette": ("dashboard",),
    "uvicorn": ("dashboard",),
    "pytest": ("testing",),
}

# (module, import inside a function), each with a comment that says why the import cannot stand at the top.
LATE_IMPORTS = {
    ("plumbing.exceptions", "difflib.SequenceMatcher"),
    ("plumbing.injection.injector", f"{ROOT}.plumbing.injection.adapters.Engine"),
    ("plumbing.overrides.follower", f"{ROOT}.plumbing.overrides.layouts.parse"),
    ("plumbing.registry.definition", "difflib.get_close_matches"),
    ("plumbing.schedules.cron", "croniter.croniter"),
    ("plumbing.wire.exactness", "zoneinfo.ZoneInfo"),
    *(("plumbing.schedules.periods", f"dateutil.rrule.{name}") for name in ("YEARLY", "rrule", "weekday")),
}


@cache
def _modules() -> dict[str, Path]:
    package = SOURCE_ROOT.joinpath(*ROOT.split("."))
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_modules()[module].read_text(encoding="utf-8"))


def _imported(module: str, within: ast.AST) -> Iterator[str]:
    """The absolute names that `within`, a part of `module`, imports; for `from a import b` that is `a.b`."""
    package = [*ROOT.split("."), *filter(None, module.split("."))]
    if _modules()[module].name != "__init__.py":
        package.pop()
    for node in ast.walk(within):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _own_module(name: str) -> str | None:
    """The module of ours that the absolute `name` is, or stands in; None for what is not ours."""
    if name != ROOT and not name.startswith(ROOT + "."):
        return None
    own = name[len(ROOT) + 1 :]
    while own not in _modules():
        own = own.rpartition(".")[0]
    return own


@cache
def _graph() -> dict[str, set[str]]:
    return {
        module: {own for name in _imported(module, _tree(module)) if (own := _own_module(name)) is not None} - {module}
        for module in _modules()
    }


def _covers(name: str, module: str) -> bool:
    return module == name or module.startswith(name + ".")


@cache
def _floors() -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The floors of the architecture page, the lowest first; each has groups of rooms, which do not know each other."""
    (block,) = re.findall(r"^```layers\n(.*?)^```", ARCHITECTURE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return tuple(tuple(tuple(group.split()) for group in line.split("|")) for line in block.splitlines())


def _rooms() -> list[str]:
    return [room for floor in _floors() for group in floor for room in group]


def _place(module: str) -> tuple[int, int] | None:
    """The floor of a module, and its group there."""
    for at, floor in enumerate(_floors()):
        for number, group in enumerate(floor):
            if any(_covers(room, module) for room in group):
                return at, number
    return None


def _placed_imports() -> Iterator[tuple[str, tuple[int, int], str, tuple[int, int]]]:
    """Each import of one module by another, with the places of both."""
    for module, targets in _graph().items():
        for target in targets:
            if (own := _place(module)) is not None and (other := _place(target)) is not None:
                yield module, own, target, other


def test_every_name_in_the_list_of_floors_exists() -> None:
    assert not [room for room in _rooms() if room not in _modules()]


def test_every_module_stands_on_one_floor_and_only_one() -> None:
    rooms_of = {module: sum(_covers(room, module) for room in _rooms()) for module in _modules()}
    wrong = {module: rooms for module, rooms in rooms_of.items() if rooms != (module not in BARE_PACKAGES)}
    assert not wrong, f"cover each of these modules once in {ARCHITECTURE.name}"


def test_the_packages_around_the_layers_import_nothing_of_ours() -> None:
    busy = {m or ROOT: sorted(n for n in _imported(m, _tree(m)) if _own_module(n) is not None) for m in BARE_PACKAGES}
    assert not {package: names for package, names in busy.items() if names}


def test_the_import_graph_has_no_cycle() -> None:
    try:
        TopologicalSorter(_graph()).prepare()
    except CycleError as error:
        pytest.fail("a cycle: " + " <- ".join(error.args[1]))


def test_imports_go_to_the_same_floor_or_a_lower_one() -> None:
    assert not [f"{module} imports {target}" for module, own, target, other in _placed_imports() if other[0] > own[0]]


def test_rooms_on_two_sides_of_a_bar_do_not_know_each_other() -> None:
    crossing = [
        f"{module} imports {target}"
        for module, own, target, other in _placed_imports()
        if own[0] == other[0] and own[1] != other[1]
    ]
    assert not crossing


def test_the_bar_separates_execution_and_jetstream() -> None:
    execution, jetstream = _place("plumbing.execution"), _place("plumbing.jetstream")
    assert execution is not None
    assert jetstream is not None
    assert execution[0] == jetstream[0]
    assert execution[1] != jetstream[1]


def test_a_library_is_imported_by_its_owners_only() -> None:
    trespassing = [
        f"{module} imports {name}"
        for module in _modules()
        for name in _imported(module, _tree(module))
        for library, owners in OWNERS.items()
        if _covers(library, name) and not any(_covers(owner, module) for owner in owners)
    ]
    assert not trespassing


def test_no_import_stands_inside_a_function() -> None:
    late = {
        (module, name)
        for module in _modules()
        for function in ast.walk(_tree(module))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for name in _imported(module, function)
    }
    assert not late - LATE_IMPORTS
    assert not LATE_IMPORTS - late, "these exceptions are not needed any more"


def test_no_module_of_ours_is_imported_by_a_string() -> None:
    dodging = {
        (module, node.args[0].value)
        for module in _modules()
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert dodging == LOADED_ON_DEMAND


def test_no_import_is_hidden_behind_type_checking() -> None:
    hidden = [
        f"{module} imports {name}"
        for module in _modules()
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for name in _imported(module, node)
    ]
    assert not hidden


def test_the_first_level_of_plumbing_has_few_files() -> None:
    files = [module for module, path in _modules().items() if path.parent.name == "plumbing"]
    assert len(files) <= MAX_FILES_AT_THE_FIRST_LEVEL_OF_PLUMBING, files


def test_no_short_file_has_a_single_importer() -> None:
    """A thin file is one more to open for its only user, so it belongs in there."""
    importers = Counter(target for targets in _graph().values() for target in targets)
    thin = {
        module: lines
        for module, path in _modules().items()
        if path.stem not in ("__init__", "__main__")
        and importers[module] == 1
        and (lines := len(path.read_text("utf-8").splitlines())) < MIN_LINES_OF_A_FILE_WITH_ONE_IMPORTER
    }
    assert not thin
