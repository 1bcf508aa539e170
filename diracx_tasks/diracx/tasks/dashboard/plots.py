"""Plots as SVG, drawn here: no script, no library, colours by class from the style sheet.

Each has a text alternative, which says what a reader takes from the picture: the value of now and the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from markupsafe import Markup

METER_WIDTH: Final = 100
WIDTH: Final = 420
HEIGHT: Final = 150
LEFT: Final = 50
TOP: Final = 8
BOTTOM: Final = 22
TICKS: Final = 4
"""About so many lines across the plot."""
_STEPS: Final = (60, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 86_400)
"""The seconds that may lie between two marks of the time."""


def meter(share: float | None, text: str) -> Markup:
    """A bar that is filled to a share from 0 to 1, with its text alternative."""
    filled = round(METER_WIDTH * min(1.0, max(0.0, share or 0.0)), 1)
    kind = "full" if filled >= METER_WIDTH else "part"
    return Markup(
        '<svg class="meter {0}" viewBox="0 0 {1} 8" preserveAspectRatio="none" role="img" aria-label="{3}">'
        '<rect class="rest" width="{1}" height="8"/><rect class="filled" width="{2}" height="8"/></svg>'
    ).format(kind, METER_WIDTH, filled, text)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot."""

    name: str
    style: str
    """The class that colours it, `s1` to `s5`."""
    values: Sequence[float | None]
    """A value for each time of the plot; None leaves a gap."""
    latest: float | None
    """The value of now; None: there is none now, whatever there was before."""


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one time."""

    title: str
    start: datetime
    end: datetime
    times: Sequence[datetime]
    series: Sequence[Series]
    write: Callable[[float | None], str]
    """Writes a value with its unit."""

    @property
    def is_empty(self) -> bool:
        """Whether no value is known."""
        return all(value is None for each in self.series for value in each.values)

    @property
    def text(self) -> str:
        """What the picture shows, in words."""
        said = []
        for each in self.series:
            known = [(value, at) for value, at in zip(each.values, self.times, strict=True) if value is not None]
            if known:
                most, at = max(known)
                most_at = f"{self.write(most)} at {at:%H:%M}"
                said.append(f"{each.name}: now {self.write(each.latest)}, at most {most_at}")
        return f"{self.title}, {self.start:%H:%M} to {self.end:%H:%M} UTC. " + ("; ".join(said) or "No values yet")

    @property
    def svg(self) -> Markup:
        """The picture."""
        top = _rounded_up(max((v for each in self.series for v in each.values if v is not None), default=0.0))
        parts = [*self._grid(top), *self._marks()]
        for each in self.series:
            line, dots = self._path(each.values, top), self._dots(each.values, top)
            parts.append(Markup('<path class="series {0}" d="{1}"/>').format(each.style, line))
            if dots:
                parts.append(Markup('<path class="series dots {0}" d="{1}"/>').format(each.style, dots))
        box = Markup('<svg class="plot" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">')
        return box.format(WIDTH, HEIGHT, self.text) + Markup("").join(parts) + Markup("</svg>")

    def _grid(self, top: float) -> Iterator[Markup]:
        steps = TICKS if top else 1
        for step in range(steps + 1):
            value = top * step / steps
            y = _y(value, top)
            yield Markup('<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(LEFT, WIDTH, y)
            if step % 2 == 0:
                text = Markup('<text x="{0}" y="{1}" text-anchor="end">{2}</text>')
                yield text.format(LEFT - 6, round(y + 4, 1), self.write(value))

    def _marks(self) -> Iterator[Markup]:
        seconds = (self.end - self.start).total_seconds()
        step = next((each for each in _STEPS if seconds / each <= 6), _STEPS[-1])
        first = math.ceil(self.start.timestamp() / step) * step
        mark = self.start + timedelta(seconds=first - self.start.timestamp())
        while mark <= self.end:
            text = Markup('<text x="{0}" y="{1}" text-anchor="middle">{2}</text>')
            yield text.format(self._x(mark), HEIGHT - 4, f"{mark:%H:%M}")
            mark += timedelta(seconds=step)

    def _path(self, values: Sequence[float | None], top: float) -> str:
        words, pen = list[str](), "M"
        for value, at in zip(values, self.times, strict=True):
            if value is None:
                pen = "M"
                continue
            words.append(f"{pen}{self._x(at)} {_y(value, top)}")
            pen = "L"
        return "".join(words)

    def _dots(self, values: Sequence[float | None], top: float) -> str:
        """Values between two gaps, each as a line of no length: of those there is no other line."""
        around = zip([None, *values], values, [*values[1:], None], self.times, strict=False)
        return "".join(
            f"M{self._x(at)} {_y(value, top)}h0"
            for before, value, after, at in around
            if value is not None and before is None and after is None
        )

    def _x(self, at: datetime) -> float:
        share = (at - self.start) / (self.end - self.start)
        return round(LEFT + (WIDTH - LEFT - 4) * min(1.0, max(0.0, share)), 1)


def _y(value: float, top: float) -> float:
    share = value / top if top else 0.0
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - share), 1)


def _rounded_up(value: float) -> float:
    """The next value above that can be read easily: 1, 2, 4, 6 or 8 times a power of ten."""
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if value <= step * power * 1.0000001)
