"""What a process of the mesh counts within itself: asyncio tasks, objects by type, and threads by name.

A thread of its own writes one line of JSON in a while to `<pid>.jsonl`. It starts as the tasks are imported, so that
neither worker nor scheduler knows of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

FOLDER_VARIABLE: Final = "SOAK_FOLDER"
SECONDS_VARIABLE: Final = "SOAK_SAMPLE_SECONDS"
MIN_COUNT: Final = 20
"""Types with fewer objects are not written one by one."""


def start() -> None:
    """Write counts until the process ends."""
    threading.Thread(target=_write_on, name="soak probe", daemon=True).start()


def counts() -> dict[str, Any]:
    """Count now."""
    gc.collect()
    objects = gc.get_objects()
    types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in objects)
    threads = Counter("thread " + re.sub(r"\d+", "N", each.name) for each in threading.enumerate())
    tasks = sum(isinstance(each, asyncio.Task) and not each.done() for each in objects)
    return {
        "tasks": tasks,
        "objects": len(objects),
        "types": {name: count for name, count in types.items() if count >= MIN_COUNT} | threads,
    }


def latest(folder: Path, pid: int) -> dict[str, Any] | None:
    """The latest counts of a process; None if it has written none."""
    try:
        lines = (folder / f"{pid}.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return None
    # The last line may not be whole.
    return next((json.loads(line) for line in reversed(lines) if line.endswith("}")), None)


def _write_on() -> None:
    path = Path(os.environ[FOLDER_VARIABLE]) / f"{os.getpid()}.jsonl"
    while True:
        time.sleep(float(os.environ[SECONDS_VARIABLE]))
        with path.open("w") as file:
            file.write(json.dumps(counts()) + "\n")
