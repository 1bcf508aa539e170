"""Every command of `nats/README.md`, typed at a terminal on a mesh at work, shows what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diracx.tasks.cli.commands.setup import export
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh
from support.nats_command import OperatorShell
from support.operated_mesh import NAMESPACE, operated_mesh
from support.paths import NATS_FOLDER as FOLDER
from support.permission_table import COMMANDS
from support.secured import secured_server

PAGE = FOLDER / "README.md"

# They make a consumer to list with.
REFUSED_TO_OBSERVERS = ("kv ls", "view DIRACX_DLQ", "view DIRACX_LATER")
# What changes something, and what says itself who asks.
NOT_FOR_OBSERVERS = (" context ", "--context", " add ", " pause ", " resume ", *REFUSED_TO_OBSERVERS)

PROGRAMS = re.compile(r"(nats|nats-server|diracx-task-run) [a-z-]")
TYPED_ELSEWHERE = (
    "nats consumer next",
    "nats --context admin sub '>'",
    *(f"diracx-task-run {command.name}" for command in COMMANDS),
)
"""In a test of its own, below, in `process/operations/test_roles.py` and in `test_permissions.py`."""

needs_nats = pytest.mark.nats_command


@dataclass(frozen=True)
class Step:
    command: str
    shows: tuple[str, ...]

    @property
    def code(self) -> int:
        """As plugins of Nagios tell it."""
        return 1 if self.shows[0].startswith("WARNING ") else 0


CONSOLE = re.compile(r"^```console\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"(?:^(?: {4}.*)?\n)+", flags=re.MULTILINE)


def steps() -> list[Step]:
    found: list[Step] = []
    for block in CONSOLE.findall(PAGE.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            found.append(Step(command, tuple(line for line in shown if line.strip() not in ("", "..."))))
    return found


def mentioned() -> list[str]:
    """The commands that stand elsewhere on the page: in the text, and in blocks of another kind."""
    start, rest = re.split(r"^## (?=The one warning)", PAGE.read_text(), flags=re.MULTILINE)
    # What is indented there is typed by `process/test_server_configuration.py`, all of it.
    text = CONSOLE.sub("", BLOCK.sub("\n", start) + rest)
    in_text = (" ".join(code.split()) for code in re.findall(r"`+([^`]+)`+", text))
    in_blocks = (line.strip().removeprefix("$ ") for line in re.findall(r"^ {4}.*$", text, flags=re.MULTILINE))
    return [each for each in (*in_text, *in_blocks) if PROGRAMS.match(each)]


def started() -> list[str]:
    start = PAGE.read_text().partition("## Start\n")[2].partition("\n## ")[0]
    return [line.strip() for block in BLOCK.findall(start) for line in block.splitlines()]


def masked(line: str) -> str:
    """Without what differs from one run to the next: ids, times, who, where, and the widths of columns."""
    line = re.sub(r"\b[0-9a-f]{32}\b", "ID", line)
    line = re.sub(r"[\w.-]+-\d+-(small|scheduler)(-\w{4})?\b|\bdiracx-worker/small/[\w.-]+/\d+", "WHO", line)
    time = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000 UTC)?|\b\d{8}T\d{6}Z|\b\d\d:\d\d:\d\d\b"
    line = re.sub(time, "TIME", line)
    line = re.sub(r"\b127\.0\.0\.1:\d+\b", "ADDRESS", line)
    line = re.sub(r"\bcron \d+ ", "cron MINUTE ", line)
    line = re.sub(r"\b(\d+(\.\d+)?(ns|µs|ms|s|m|h|d))+\b", "WHILE", line)
    return re.sub(r"[\s│]+", " ", line).strip()


def is_shown(line: str, output: str) -> bool:
    parts = [re.escape(masked(part)) for part in line.split("...")]
    pattern = re.compile(".*".join(part for part in parts if part))
    return any(pattern.search(masked(each)) for each in output.splitlines())


@pytest.fixture(scope="module")
def secured() -> Iterator[EmbeddedServer]:
    with secured_server(NAMESPACE) as server:
        yield server


@pytest.fixture
def terminal(secured: EmbeddedServer, tmp_path: Path) -> OperatorShell:
    return OperatorShell(secured, tmp_path, NAMESPACE)


def missing(step: Step, output: str) -> list[str]:
    return [line for line in step.shows if not is_shown(line, output)]


async def with_contexts(terminal: OperatorShell) -> None:
    for step in steps():
        if step.command.startswith("nats context"):
            await terminal.type_in(step.command)


async def contents(mesh: TaskMesh) -> dict[str, object]:
    """What of the streams an operator who only looks must not change; locks are renewed, and the leader writes."""
    names = (mesh.namespace.tasks_stream, mesh.namespace.dead_letters_stream, f"KV_{mesh.namespace.attempts_bucket}")
    states = {name: await mesh.state(name) for name in names}
    return states | {"in flight": await mesh.in_flight()}


@needs_nats
async def test_every_command_of_the_page_shows_what_the_page_says(
    secured: EmbeddedServer, terminal: OperatorShell
) -> None:
    async with operated_mesh(secured) as mesh:
        before = await contents(mesh)
        for step in steps():
            if " add --config" in step.command:
                continue  # on an empty server, in the next test
            output = await terminal.type_in(step.command, step.code)
            assert not missing(step, output), f"$ {step.command}\n{output}\nlacks {missing(step, output)}"
        assert await contents(mesh) == before
    # Not those of whoever runs the tests.
    assert {path.stem for path in (terminal.home / ".config/nats/context").iterdir()} == {"diracx", "look", "admin"}


@needs_nats
async def test_what_an_observer_may_see_it_sees_as_the_operator_does(
    secured: EmbeddedServer, terminal: OperatorShell
) -> None:
    refused = 0
    async with operated_mesh(secured):
        for step in steps():
            if " add --config" in step.command:
                continue
            if not any(part in step.command for part in NOT_FOR_OBSERVERS):
                observed = step.command.replace("nats ", "nats --context look ", 1)
                output = await terminal.type_in(observed, step.code)
                assert not missing(step, output), f"$ {observed}\n{output}\nlacks {missing(step, output)}"
            elif any(part in step.command for part in REFUSED_TO_OBSERVERS):
                observed = step.command.replace("nats ", "nats --context look --timeout 1s ", 1)
                output = await terminal.type_in(observed, code=1)
                assert 'Permissions Violation for Publish to "DIRACX.API.CONSUMER.CREATE.' in output
                refused += 1
            else:
                await terminal.type_in(step.command, step.code)
    assert refused >= 4


@needs_nats
async def test_consumer_next_takes_a_task_for_good_as_the_page_warns(
    secured: EmbeddedServer, terminal: OperatorShell
) -> None:
    async with operated_mesh(secured) as mesh:
        await with_contexts(terminal)
        before = await mesh.waiting()
        output = await terminal.type_in("nats consumer next DIRACX_TASKS normal-large")
        assert '{"month":"2026-05"}' in output
        assert "Acknowledged message" in output

        async def it_is_gone() -> bool:
            return await mesh.waiting() == before - 1

        await wait_until(it_is_gone, description="it is gone")


@needs_nats
@pytest.mark.parametrize("namespace", [NAMESPACE, "acme"])
async def test_the_assets_are_accepted_by_the_nats_command_and_are_all_that_is_needed(
    server: EmbeddedServer, tmp_path: Path, namespace: str
) -> None:
    names, folder = Namespace(namespace), FOLDER if namespace == NAMESPACE else tmp_path
    if folder is not FOLDER:
        export(names, 1, folder)
    shown = {step.command: step for step in steps() if " add " in step.command and "--config" in step.command}
    terminal = OperatorShell(server, tmp_path, namespace, folder)
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        try:
            # As the page says: what is sourced comes first, consumers last.
            for kind, name in sorted(files(folder), key=lambda file: (file[0] == "consumers", "_LATER" not in file[1])):
                stream = f"{names.tasks_stream} " if kind == "consumers" else ""
                command = f"nats {kind.removesuffix('s')} add {stream}--config {kind}/{name}.json"
                output = await terminal.type_in(command)
                assert "Information for" in output or "was created" in output, f"$ {command}\n{output}"
                if (step := shown.pop(command, None)) is not None:
                    assert not missing(step, output), f"$ {command}\n{output}"
            assert not shown or folder is not FOLDER
            assert await ensure(connection, assets(names), tolerant=False) == []
        finally:
            for asset in reversed(assets(names)):
                if asset.kind != "consumer":
                    await connection.api(f"STREAM.DELETE.{asset.stream}")


def files(folder: Path) -> list[tuple[str, str]]:
    return [
        (path.parent.name, path.stem) for kind in ("streams", "consumers") for path in (folder / kind).glob("*.json")
    ]


def test_the_page_has_a_command_for_each_of_its_questions() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    questions = [section for section in sections if section.split("\n", 1)[0].endswith("?")]
    assert len(questions) >= 7
    assert all("```console" in section for section in questions)


def test_no_command_of_the_page_is_typed_by_nobody_and_none_shows_nothing() -> None:
    typed = (*(step.command for step in steps()), *started(), *TYPED_ELSEWHERE)
    assert not [each for each in mentioned() if not any(command.startswith(each) for command in typed)]
    assert not [step.command for step in steps() if not step.shows]
