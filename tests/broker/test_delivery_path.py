"""The architecture page lists the files through which a successful delivery passes: those, no others, in that order."""

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
from support.pages import DOCS
from support.paths import SOURCE_ROOT

BEGINNINGS = {(pull.__file__, "_on_message"), (in_flight.__file__, "_begin_new"), (in_flight.__file__, "_carry")}
PACKAGE = str(SOURCE_ROOT / "diracx" / "tasks" / "plumbing") + "/"
PAGE = DOCS / "architecture.md"


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
            return message is None or bool(message.raw_reply)
        frame = frame.f_back
    return False


def section() -> str:
    page = PAGE.read_text(encoding="utf-8")
    return page.partition("## The path of one delivery")[2].partition("\nDetours:\n")[0]


def steps() -> list[tuple[str, str]]:
    """The file of each step, and the function or class of it that the page names first."""
    return re.findall(r"^\d+\. \[`([\w/.]+)`\]\([^)]*\):[^`]*`(\w+)`", section(), re.MULTILINE)


def asked() -> list[str]:
    return re.findall(r"^\| `([\w/]+\.py)` \|", section(), re.MULTILINE)


async def test_a_delivery_passes_through_the_files_on_the_page_and_no_others(mesh: TaskMesh) -> None:
    mesh.register(Plain)
    called: list[tuple[str, str]] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE) and in_a_delivery(frame):
            called.append((path.removeprefix(PACKAGE), frame.f_code.co_qualname))

    async with mesh.working() as worker:
        await Plain().schedule()
        await wait_until(lambda: worker.processed == 1, description="the first one, which prepares the class, is done")
        sys.setprofile(profile)
        try:
            await Plain().schedule()
            await wait_until(lambda: worker.processed == 2, description="the second one is done")
        finally:
            sys.setprofile(None)
    assert {path for path, _ in called} == {*(path for path, _ in steps()), *asked()}
    left = iter(called)
    for step, name in steps():
        assert any(path == step and name in function.split(".") for path, function in left), f"{step}: {name}"


def test_the_path_is_ten_files_long_at_the_most() -> None:
    assert 5 <= len(steps()) <= 10
    assert f"\n{len(steps())}. " in section()
    assert f"\n{len(steps()) + 1}. " not in section()
