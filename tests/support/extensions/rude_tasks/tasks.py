"""Changes the log, the standard streams, signals, warnings and the current folder, at its import and in its tasks."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import locale
import logging
import logging.config
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size

FOLDER = Path(os.environ["RUDE_FOLDER"])
CONFIGURATION = {
    "version": 1,
    "formatters": {"theirs": {"format": "THEIRS %(message)s"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "theirs"},
        "file": {"class": "logging.FileHandler", "filename": str(FOLDER / "theirs.log"), "formatter": "theirs"},
    },
    "root": {"level": "ERROR", "handlers": ["console", "file"]},
}

logger = logging.getLogger(__name__)


class TheirLogger(logging.Logger):
    """A class of loggers of their own."""


def silence() -> None:
    """Take the log of the process over, and silence the rest, in every way that logging offers."""
    logging.config.dictConfig(CONFIGURATION)
    logging.disable(logging.CRITICAL)
    logging.getLogger("diracx").setLevel("CRITICAL")


logging.setLoggerClass(TheirLogger)
logging.basicConfig(force=True, stream=sys.stdout)
silence()
sys.stdout = io.TextIOWrapper(sys.stdout.detach(), "ascii")  # type: ignore[union-attr]
sys.stderr = io.StringIO()
sys.excepthook = lambda *error: print("THEIRS")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
warnings.simplefilter("error")
locale.setlocale(locale.LC_ALL, "C")
os.chdir("/")
if sys.version_info < (3, 14):
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())


class Silences(BaseTask):
    size = Size.SMALL

    async def execute(self, **kwargs: Any) -> None:
        silence()
        logging.getLogger().handlers.clear()
        logging.getLogger("diracx.tasks").propagate = False
        raise ValueError("the author's")


@dataclasses.dataclass
class Closes(BaseTask):
    """Closes or replaces what it prints to."""

    how: str

    size = Size.SMALL

    async def execute(self, **kwargs: Any) -> int:
        silence()
        os.chdir("/")
        if self.how == "close":
            sys.stdout.close()
            sys.stderr.close()
        else:
            sys.stdout = sys.stderr = io.StringIO()
        return 5
