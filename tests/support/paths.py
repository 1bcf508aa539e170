"""The paths of files and folders that tests read or run."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
TOP = TESTS.parent
SOURCE_ROOT = TOP / "diracx_tasks"
NATS_FOLDER = TOP / "nats"
SCRIPTS = TOP / "scripts"
CHAOS = SCRIPTS / "chaos_run"
SOAK = SCRIPTS / "soak_run"
INTEROP = SCRIPTS / "interop_run"
OWN_TASKS = SCRIPTS / "own_tasks"
DEMONSTRATION = SCRIPTS / "demonstration"
GUBBINS = TESTS / "gubbins"
"""The reference extension."""
EXTENSIONS = TESTS / "support" / "extensions"
"""Small packages of tasks that tests install; see `support.distributions`."""
CONSOLE_SCRIPT = Path(sys.executable).with_name("diracx-task-run")
