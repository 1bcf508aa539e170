"""A task that prints, and returns a text."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size


@dataclasses.dataclass
class Prints(BaseTask):
    text: str

    size = Size.SMALL

    async def execute(self, **kwargs: Any) -> str:
        for _ in range(3):
            print(self.text, flush=True)
        _note_the_run()
        return self.text


def _note_the_run() -> None:
    with open(Path(os.environ["LOLLYGAG_FOLDER"]) / "journal", "a") as journal:
        journal.write("ran\n")
