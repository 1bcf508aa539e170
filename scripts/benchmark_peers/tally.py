"""Measures in a worker: each task of a benchmark calls `begun`, and the last one writes the figures.

A module without requirements: it is imported by workers of systems that know nothing of this project.

The environment says what to measure:

- `TALLY_FILE`: where the figures are written, as JSON, when all is measured.
- `TALLY_TASKS`: how many tasks are counted (drain), or how many latencies are kept.
- `TALLY_SECONDS`: a drain is also over after so many seconds, with what has been done by then.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(os.environ.get("TALLY_FILE", os.devnull))
TASKS: Final = int(os.environ.get("TALLY_TASKS", "0"))
SECONDS: Final = float(os.environ.get("TALLY_SECONDS", "0"))

WARM_UP: Final = 200
"""Tasks that are drained before the clock starts: connections, imports and the first batch do not count."""

SETTLE_SECONDS: Final = 0.5
"""How long after its first task a worker counts as idle."""

_numbers = itertools.count(1)
_latencies: list[float] = []
_first = float("inf")
_started = 0.0
_cpu_started = 0.0
_is_written = False


def begun(sent: float) -> None:
    """A task begins.

    Args:
        sent: When it was submitted, by `time.perf_counter` (on Linux one clock for all processes); 0 in a drain.
    """
    if sent:
        _note_latency(sent)
    else:
        _count()


def _count() -> None:
    global _started, _cpu_started
    number = next(_numbers)
    if number == WARM_UP:
        _cpu_started = cpu_seconds()
        _started = time.perf_counter()
    elif number > WARM_UP and (number == TASKS or number % 64 == 0) and not _is_written:
        seconds = time.perf_counter() - _started
        if number >= TASKS or seconds > SECONDS:
            tasks = number - WARM_UP
            cpu = cpu_seconds() - _cpu_started
            _write({"per_second": tasks / seconds, "cpu_microseconds": cpu / tasks * 1_000_000})


def _note_latency(sent: float) -> None:
    global _first
    now = time.perf_counter()
    _first = min(_first, now)
    if sent > _first + SETTLE_SECONDS and not _is_written:
        _latencies.append(now - sent)
        if len(_latencies) == TASKS:
            _write({"latencies": _latencies})


def _write(figures: dict[str, Any]) -> None:
    global _is_written
    _is_written = True
    unfinished = FILE.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(figures))
    unfinished.replace(FILE)


def cpu_seconds() -> float:
    """CPU time of this process and of all others of its session, threads included, in s.

    A worker is started in a session of its own, so this is what it costs with its parents, children and helpers.
    """
    own = time.process_time()
    session = os.getsid(0)
    others = (int(path.name) for path in Path("/proc").glob("[0-9]*") if path.name != str(os.getpid()))
    return own + sum(_cpu_of(process) for process in others if _session_of(process) == session)


def _session_of(process: int) -> int | None:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return None  # it has just ended


def _cpu_of(process: int) -> float:
    try:
        threads = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/schedstat")]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has just ended
    return sum(int(text.split()[0]) for text in threads) / 1e9
