"""Which value of a plot is that of now."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.dashboard import words
from diracx.tasks.dashboard.pages.trends import SPANS, plots
from diracx.tasks.dashboard.plots import Plot, Series
from diracx.tasks.dashboard.rendering import Renderer
from diracx.tasks.plumbing.operations.sampling import QueueSample, Sample

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
WAITED = QueueSample(waiting=40, wait=[0] * 12 + [40] + [0] * 4)
"""Each of 40 tasks has waited for up to ten minutes."""
IDLE = QueueSample()


def drawn(span: str, *samples: tuple[int, QueueSample]) -> dict[str, Plot]:
    """The plots at noon by their titles. A sample is a number of minutes before noon, and what it has seen."""
    seen = [
        Sample(NOON - timedelta(minutes=minutes), 60.0, {"normal-small": queue}, 0, 0, {}, leader=True)
        for minutes, queue in samples
    ]
    return {plot.title: plot for plot in plots(seen, NOON, SPANS[span])}


@pytest.mark.parametrize(
    ("span", "samples", "wait", "waiting"),
    [
        pytest.param("hour", [(1, IDLE), (0, WAITED)], 585.0, 40, id="the last step"),
        pytest.param("hour", [(1, WAITED)], 585.0, 40, id="the last step has only begun"),
        pytest.param("hour", [(1, WAITED), (0, IDLE)], None, 0, id="the last step is idle"),
        pytest.param("hour", [(2, WAITED)], None, None, id="nobody has looked for two steps"),
        pytest.param("hour", [(54, WAITED), (0, IDLE)], None, 0, id="idle for long"),
        pytest.param("day", [(14, WAITED)], 585.0, 40, id="the last step of a day has only begun"),
        pytest.param("day", [(14, WAITED), (0, IDLE)], None, 0, id="the last step of a day is idle"),
        pytest.param("hour", [], None, None, id="nothing is known"),
    ],
)
def test_only_the_last_step_tells_of_now(
    span: str, samples: list[tuple[int, QueueSample]], wait: float | None, waiting: int | None
) -> None:
    found = drawn(span, *samples)
    p95, backlog = found["Queue wait"].series[1], found["Backlog"].series[0]
    assert (p95.name, backlog.name) == ("p95", "waiting")
    assert p95.latest == (None if wait is None else pytest.approx(wait, abs=20))
    assert backlog.latest == waiting


def test_a_wait_that_is_over_is_a_dash_in_the_key_and_in_the_text() -> None:
    found = drawn("hour", (54, WAITED), (0, IDLE))
    plot = found["Queue wait"]
    assert f"p95: now {words.NOTHING}, at most 9 min" in plot.text
    span = SPANS["hour"]
    html = Renderer("", {}).render("overview/plots.html", plots=found.values(), spans=SPANS, span=span, kept=True)
    assert f"p95 <b>{words.NOTHING}</b>" in html
    assert "waiting <b>0</b>" in html
    assert not plot.is_empty
    assert drawn("hour", (0, IDLE))["Queue wait"].is_empty


def test_a_value_between_two_gaps_is_a_dot_and_others_are_a_line() -> None:
    values = [None, 3.0, None, 1.0, 2.0]
    times = [NOON + timedelta(minutes=minute) for minute in range(len(values))]
    plot = Plot("Any", NOON, times[-1], times, [Series("one", "s1", values, 2.0)], words.count)
    lines = re.findall(r'<path class="series ([^"]*)" d="([^"]*)"', plot.svg)
    assert [(style, path.count("M"), path.count("L"), path.count("h0")) for style, path in lines] == [
        ("s1", 2, 1, 0),
        ("dots s1", 1, 0, 1),
    ]
