"""`scripts/soak` in small, and that it tells growth from noise."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
from typing import Any

import pytest

from support.paths import SOAK, TESTS


@pytest.fixture
def trend(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SOAK))
    return importlib.import_module("trend")


@pytest.mark.slow
def test_a_small_run_leaves_nothing_behind() -> None:
    command = [
        "--minutes",
        "0.2",
        "--sample",
        "3",
        "--rate",
        "20",
        "--restart",
        "4",
        "--cut",
        "5",
        "--seed",
        "7",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, str(SOAK), *command],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["left"], found["problems"], found["growing"]) == ({}, [], {})
    assert found["submitted"] > 20
    assert min(found["VOs gone"], found["restarts"], found["cuts"], found["dead letters purged"]) > 0
    sample = found["samples"][-1]
    for name in ("server MB", "small worker fds", "scheduler threads", "diracx_locks keys", "DIRACX_TASKS consumers"):
        assert sample[name] > 0


def test_what_rises_in_each_third_grows(trend: Any) -> None:
    tolerance = trend.tolerance_of("small worker objects")
    noise = random.Random(1)
    level = [50_000 + noise.uniform(-400, 400) for _ in range(60)]
    rising = [value + 120 * number for number, value in enumerate(level)]
    assert trend.growth(level, tolerance) is None
    assert trend.growth(rising, tolerance) == pytest.approx(4_800, rel=0.2)
    assert trend.growth(rising[:5], tolerance) is None, "five samples show nothing"
    peak = [*level[:40], *(value + 9_000 for value in level[40:45]), *level[45:]]
    assert trend.growth(peak, tolerance) is None
    assert trend.growth(sorted(rising, reverse=True), tolerance) is None


def test_no_consumer_and_no_overdue_state_may_come(trend: Any) -> None:
    assert trend.growth([9, 9, 10, 10, 11, 11], trend.tolerance_of("DIRACX_TASKS consumers")) == 2
    assert trend.growth([0, 0, 1, 1, 2, 2], trend.tolerance_of("schedule states overdue")) == 2
    assert trend.tolerance_of("server MB") != trend.tolerance_of("scheduler MB")


def test_the_types_that_grew_are_named(trend: Any) -> None:
    before, after = {"a": 10, "b": 5, "c": 1}, {"a": 12, "b": 5, "d": 40, "c": 0}
    assert trend.growing_types(before, after) == {"d": 40, "a": 2}
    assert trend.growing_types(before, after, most=1) == {"d": 40}
