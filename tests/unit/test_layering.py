"""The shape of the source, read from its syntax trees: nothing is imported here.

`LAYERS` is the one table of what may import what. A new module is placed in it, or these tests fail.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE_ROOT = Path(__file__).parents[2] / "diracx_tasks"
ROOT = "diracx.tasks"

# Lowest first; a name covers the modules below it. Imports stay in their layer or go to one higher up here.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("plumbing.enums", "plumbing.exceptions", "plumbing.clock", "plumbing.observability"),
    ("plumbing.retry_policies", "plumbing.schedules", "plumbing.lock_registry", "plumbing.key_value_store"),
    ("plumbing.wire",),
    ("plumbing.locks",),
    ("plumbing.submitter",),
    ("plumbing.base_task",),
    ("plumbing.registry",),
    ("plumbing.injection",),
    ("plumbing.depends", "depends"),
    ("plumbing.execution", "plumbing.jetstream"),
    ("plumbing.overrides", "plumbing.dead_letters", "plumbing.embedded"),
    ("plumbing.worker", "plumbing.scheduler"),
    ("plumbing.operations",),
    ("cli",),
    ("testing",),
)

# In one layer, and yet neither knows the other.
SIDE_BY_SIDE = ("plumbing.execution", "plumbing.jetstream")

# The packages around the layers: they import nothing of ours, because whoever imports a module runs them first.
BARE_PACKAGES = {"", "plumbing"}

# A door for other packages of DiracX, which opens when one of them asks; and what costs nothing where nobody wants it.
LOADED_ON_DEMAND = {
    ("plumbing", f"{ROOT}.plumbing.depends"),
    ("cli.processes.telemetry", f"{ROOT}.cli.processes.telemetry_providers"),
}

# Who may import a library. Web applications load task modules too, so most of the code goes without.
OWNERS = {
    "nats": ("plumbing.jetstream",),
    "fast_depends": ("plumbing.injection",),
    "click": ("cli",),
    "rich_click": ("cli",),
    "rich": ("cli",),
    "opentelemetry": ("plumbing.observability.otel", "cli.processes.telemetry_providers"),
    "pytest": ("testing",),
}

# (module, what it imports inside a function): each with a comment that says why it cannot stand at the top.
LATE_IMPORTS: frozenset[tuple[str, str]] = frozenset()


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


def _layer(module: str) -> int | None:
    return next((at for at, names in enumerate(LAYERS) if any(_covers(n, module) for n in names)), None)


def test_every_module_is_placed_in_a_layer() -> None:
    homeless = sorted(m for m in _modules() if m not in BARE_PACKAGES and _layer(m) is None)
    assert not homeless, f"place these modules in LAYERS: {homeless}"


def test_the_packages_around_the_layers_import_nothing_of_ours() -> None:
    busy = {m or ROOT: sorted(n for n in _imported(m, _tree(m)) if _own_module(n) is not None) for m in BARE_PACKAGES}
    assert not {package: names for package, names in busy.items() if names}


def test_the_import_graph_has_no_cycle() -> None:
    try:
        TopologicalSorter(_graph()).prepare()
    except CycleError as error:
        pytest.fail("a cycle: " + " <- ".join(error.args[1]))


def test_imports_go_to_the_same_layer_or_a_lower_one() -> None:
    upward = [
        f"{module} imports {target}"
        for module, targets in _graph().items()
        for target in targets
        if (own := _layer(module)) is not None and (other := _layer(target)) is not None and other > own
    ]
    assert not upward


def test_execution_and_jetstream_do_not_know_each_other() -> None:
    crossing = [
        f"{module} imports {target}"
        for module, targets in _graph().items()
        for target in targets
        for own, other in (SIDE_BY_SIDE, SIDE_BY_SIDE[::-1])
        if _covers(own, module) and _covers(other, target)
    ]
    assert not crossing


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
