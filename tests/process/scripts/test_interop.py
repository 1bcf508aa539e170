"""What `scripts/interop` counts as a difference. The script itself needs a package registry."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from support.paths import INTEROP


@pytest.fixture
def routers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(INTEROP))
    return importlib.import_module("routers")


def report(folder: Path, passed: int, *others: tuple[str, str]) -> Path:
    """A report of pytest in the format of JUnit."""
    cases = [f'<testcase classname="test_jobs" name="test_{number}"/>' for number in range(passed)]
    for test, kind in others:
        module, _, name = test.partition("::")
        cases.append(f'<testcase classname="{module}" name="{name}"><{kind} message=""/></testcase>')
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def test_what_passes_and_what_is_skipped_with_diracx_alone_is_no_difference(routers: Any, tmp_path: Path) -> None:
    skipped = [(test, "skipped") for test in routers.NOT_PASSED]
    assert routers.differences(report(tmp_path, routers.PASSED, *skipped)) == []


def test_each_test_that_fails_or_is_skipped_only_beside_ours_is_named(routers: Any, tmp_path: Path) -> None:
    others = [("test_jobs::test_a", "failure"), ("test_jobs::test_b", "error"), ("test_jobs::test_c", "skipped")]
    expected_to_fail = ("test_generic::test_unavailable_db", "failure")
    assert routers.differences(report(tmp_path, routers.PASSED - 1, *others, expected_to_fail)) == [
        "214 passed in place of 215",
        "error: test_jobs::test_b",
        "failure: test_generic::test_unavailable_db",
        "failure: test_jobs::test_a",
        "skipped: test_jobs::test_c",
    ]
