"""Which of two extensions wins, where diracx-core knows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from diracx.core import extensions

from diracx.tasks.plumbing.registry.extension_priority import diracx_rank
from support.distributions import install_metadata

GROUP = "diracx.tasks.garage"


@pytest.fixture(autouse=True)
def two_that_define_one_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`known` tells DiracX that it is an extension, `unknown` does not."""
    task = f"[{GROUP}]\nWashTask = {{0}}.tasks:WashTask\n"
    for name, text in (("known", "[diracx]\nextension = known\n" + task), ("unknown", task)):
        install_metadata(tmp_path, name, text.format(name))
    monkeypatch.syspath_prepend(str(tmp_path))
    cached: list[Any] = [extensions.select_from_extension, extensions.extensions_by_priority]
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def ranks() -> dict[str, int]:
    found: dict[str, EntryPoint] = {point.value: point for point in entry_points(group=GROUP)}
    return {value.split(".")[0]: diracx_rank(point) for value, point in found.items()}


def test_an_extension_that_diracx_core_knows_comes_before_one_that_it_does_not() -> None:
    assert ranks()["known"] > ranks()["unknown"] == 0


def test_diracx_itself_comes_after_its_extensions(tmp_path: Path) -> None:
    information = next(tmp_path.glob("known-*"))
    with (information / "entry_points.txt").open("a") as file:
        file.write("\n[diracx.dbs.sql]\nJobDB = known.db:JobDB\n")
    rank = {point.value: diracx_rank(point) for point in entry_points(group="diracx.dbs.sql", name="JobDB")}
    assert rank["known.db:JobDB"] > rank["diracx.db.sql:JobDB"] > 0


def test_without_diracx_core_all_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diracx.core.extensions", None)
    assert set(ranks().values()) == {0}
