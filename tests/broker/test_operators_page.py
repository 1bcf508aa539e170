"""Every command of `nats/README.md`, typed at a terminal on a mesh at work, shows what the page says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded import EmbeddedServer
from nats_command import Terminal
from operated import NAMESPACE, operated
from secured import FOLDER, secured_server

PAGE = FOLDER / "README.md"
JSON_FILES = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.json"))

# What creates something, be it a consumer to list with; and the user of the server.
NOT_FOR_OBSERVERS = (" context ", "--context admin", " add ", "kv ls", "view DIRACX_DLQ", "view DIRACX_LATER")

needs_nats = pytest.mark.nats_command


@dataclass(frozen=True)
class Step:
    command: str
    shows: tuple[str, ...]


def steps() -> list[Step]:
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            found.append(Step(command, tuple(line for line in shown if line.strip() not in ("", "..."))))
    return found


def masked(line: str) -> str:
    """Without what differs from one run to the next: ids, numbers, times, who, and the widths of columns."""
    line = re.sub(r"\b[0-9a-f]{32}\b", "ID", line)
    line = re.sub(r"[\w.-]+-\d+-(small|scheduler)\b|\bdiracx-worker/small/[\w.-]+/\d+", "WHO", line)
    line = re.sub(r"(?<![a-z])\d[\d.,:TZ-]*( ?(?:[KM]i)?B\b|[smhd]\b|ms\b|µs\b|%)?", "#", line)
    return re.sub(r"[\s│]+", " ", re.sub("#+", "#", line)).strip()


def is_shown(line: str, output: str) -> bool:
    parts = [re.escape(masked(part)) for part in line.split("...")]
    pattern = re.compile(".*".join(part for part in parts if part))
    return any(pattern.search(masked(each)) for each in output.splitlines())


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(NAMESPACE) as server:
        yield server


@pytest.fixture
def terminal(secured: EmbeddedServer, tmp_path: Path) -> Terminal:
    return Terminal(secured, tmp_path, NAMESPACE)


@needs_nats
async def test_every_command_of_the_page_shows_what_the_page_says(secured: EmbeddedServer, terminal: Terminal) -> None:
    async with operated(secured):
        for step in steps():
            if " add --config" in step.command:
                continue  # on an empty server, in the next test
            output = await terminal.type_in(step.command)
            missing = [line for line in step.shows if not is_shown(line, output)]
            assert not missing, f"$ {step.command}\n{output}\nlacks {missing}"


@needs_nats
async def test_what_an_observer_may_see_it_sees_as_the_operator_does(
    secured: EmbeddedServer, terminal: Terminal
) -> None:
    looking = [step for step in steps() if not any(part in step.command for part in NOT_FOR_OBSERVERS)]
    async with operated(secured):
        for step in steps():
            if step.command.startswith("nats context"):
                await terminal.type_in(step.command)
        outputs = await asyncio.gather(
            *(terminal.type_in(step.command.replace("nats ", "nats --context look ", 1)) for step in looking)
        )
    for step, output in zip(looking, outputs, strict=True):
        assert all(is_shown(line, output) for line in step.shows), f"$ {step.command}\n{output}"


@needs_nats
async def test_the_assets_are_accepted_by_the_nats_command(terminal: Terminal) -> None:
    for step in steps():
        if step.command.startswith("nats context"):
            await terminal.type_in(step.command)
    shown = {step.command: step.shows for step in steps()}
    # As the page says: what is sourced comes first, consumers last.
    for path in sorted(JSON_FILES, key=lambda path: (path.parts[0] == "consumers", path.stem != "DIRACX_LATER")):
        stream = "DIRACX_TASKS " if path.parts[0] == "consumers" else ""
        command = f"nats {path.parts[0].removesuffix('s')} add {stream}--config {path}"
        output = await terminal.type_in(command)
        assert "Information for" in output or "was created" in output, f"$ {command}\n{output}"
        assert all(is_shown(line, output) for line in shown.get(command, ())), f"$ {command}\n{output}"


def test_the_page_has_a_command_for_each_of_its_questions() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    questions = [section for section in sections if section.split("\n", 1)[0].endswith("?")]
    assert len(questions) >= 7
    assert all("```console" in section for section in questions)
