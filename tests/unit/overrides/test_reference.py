"""The files of the reference, `configuration.md`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.overrides.checks import problems
from diracx.tasks.plumbing.overrides.configuration import Configuration
from diracx.tasks.plumbing.overrides.layouts import parse
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.schedules import IntervalSeconds
from support.pages import DOCS, files

FILES = files(DOCS / "configuration.md")


@dataclasses.dataclass
class SubmitPilots(PeriodicVoAwareBaseTask):
    vo: str
    ce_regex: str = ".*"
    default_schedule = IntervalSeconds(60)

    async def execute(self) -> None: ...


def without_paths(value: Any) -> Any:
    """A value of a configuration without the places at which it is written."""
    if isinstance(value, msgspec.Struct):
        found = msgspec.structs.asdict(value)
        return {name: without_paths(each) for name, each in found.items() if not name.endswith("path")}
    if isinstance(value, dict):
        return {name: without_paths(each) for name, each in value.items()}
    return value


def test_the_files_of_both_layouts_mean_the_same() -> None:
    ours, diracx = map(parse, FILES.values())
    assert ours != Configuration()
    assert without_paths(ours) == without_paths(diracx)


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_no_errors(name: str) -> None:
    registry = TaskRegistry()
    registry.add("pilots:SubmitPilots", SubmitPilots)
    found = problems(parse(FILES[name]), registry)
    assert not found.errors
    assert all(re.search(r"OwnerReport|StorageElement", warning) for warning in found.warnings)
