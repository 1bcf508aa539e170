"""A library that nats-py imports and seldom uses is loaded when it is used, and others never notice."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from diracx.tasks.plumbing.jetstream.deferred_import import deferred_import

LIBRARY = "library_for_a_test"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that can be imported, with one value and one module."""
    (tmp_path / LIBRARY).mkdir()
    (tmp_path / LIBRARY / "__init__.py").write_text("value = object()")
    (tmp_path / LIBRARY / "inner.py").write_text("value = 2")
    monkeypatch.syspath_prepend(tmp_path)
    yield LIBRARY
    for name in [each for each in sys.modules if each.partition(".")[0] == LIBRARY]:
        del sys.modules[name]


def loaded() -> ModuleType | None:
    return sys.modules.get(LIBRARY)


def test_it_is_loaded_at_its_first_use_and_is_the_module_of_all_others(library: str) -> None:
    with deferred_import(library):
        bound = importlib.import_module(library)
    assert loaded() is None
    value = bound.value
    assert loaded() is not bound
    assert importlib.import_module(library).value is value
    assert bound.value is value


@pytest.mark.parametrize("module", [LIBRARY, f"{LIBRARY}.inner"])
def test_code_that_uses_it_within_the_block_gets_the_module(library: str, module: str) -> None:
    with deferred_import(library):
        bound = importlib.import_module(library)
        found: dict[str, object] = {}
        exec(f"from {module} import value", found)
        own = loaded()
    assert own is not None
    assert own is not bound
    assert loaded() is own
    assert found["value"] is importlib.import_module(module).value


def test_what_is_loaded_already_is_left_as_it_is(library: str) -> None:
    before = importlib.import_module(library)
    with deferred_import(library):
        assert importlib.import_module(library) is before
    assert loaded() is before


def test_what_is_not_installed_is_missing_as_usual() -> None:
    with deferred_import(LIBRARY), pytest.raises(ModuleNotFoundError):
        importlib.import_module(LIBRARY)
    assert loaded() is None
