"""The architecture page lists the files through which a successful delivery passes: those, and no others."""

from __future__ import annotations

import re
import sys
from types import FrameType

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import pull
from diracx.tasks.plumbing.worker import in_flight
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh
from support.paths import SOURCE_ROOT

BEGINNINGS = {(pull.__file__, "_on_message"), (in_flight.__file__, "_carry")}


class Plain(BaseTask):
    """Asks for nothing."""

    size = Size.SMALL

    async def execute(self) -> None:
        """Succeed."""


def in_a_delivery(frame: FrameType | None) -> bool:
    while frame is not None:
        if (frame.f_code.co_filename, frame.f_code.co_name) in BEGINNINGS:
            # A status that ends a pull arrives at the same place, and has no reply subject.
            message = frame.f_locals.get("message")
            return message is None or bool(message.reply)
        frame = frame.f_back
    return False


def files_on_the_page() -> set[str]:
    page = (SOURCE_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## The path of one delivery")[2].partition("Three detours")[0]
    steps = re.findall(r"^\d+\. \[`([\w/.]+)`\]", section, re.MULTILINE)
    asked = re.findall(r"`([\w/]+\.py)`", section.partition("Eight more files")[2])
    assert len(steps) <= 14
    assert len(asked) == 8
    return {*steps, *asked}


async def test_a_delivery_passes_through_the_files_on_the_page_and_no_others(mesh: TaskMesh) -> None:
    mesh.register(Plain)
    package = str(SOURCE_ROOT / "diracx" / "tasks" / "plumbing") + "/"
    passed: set[str] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(package) and in_a_delivery(frame):
            passed.add(path.removeprefix(package))

    async with mesh.working() as worker:
        await Plain().schedule()
        await wait_until(lambda: worker.processed == 1, description="the first one, which prepares the class, is done")
        sys.setprofile(profile)
        try:
            await Plain().schedule()
            await wait_until(lambda: worker.processed == 2, description="the second one is done")
        finally:
            sys.setprofile(None)
    assert passed == files_on_the_page()
