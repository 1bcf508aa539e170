"""A real nats-server for the tests that need one. Without it they fail and say what to install."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError, find_nats_server
from diracx.tasks.testing import wait_until
from support.nats_command import find_nats

# The time of an example is no criterion on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

NO_NATS_COMMAND = (
    "the nats command is not on the PATH: go install github.com/nats-io/natscli/nats@latest; "
    "the commands of nats/README.md were not run"
)

TESTS = Path(__file__).parent
# An extension with tests of its own, which need it installed; see process/test_reference_extension.py.
collect_ignore = ["gubbins"]
MARKED_FOLDERS = ("broker", "process", "cluster")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--cluster`."""
    parser.addoption("--cluster", action="store_true", help="run tests/cluster too, on clusters of three servers")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/cluster alone without `--cluster`."""
    return True if collection_path == TESTS / "cluster" and not config.getoption("--cluster") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in tests/broker as `broker`, those in tests/process as `process`, and so on."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of the nats command without it. Without a server fail at once, in one line, those that need one."""
    if item.get_closest_marker("nats_command") and find_nats() is None:
        pytest.skip(NO_NATS_COMMAND)
    if any(item.get_closest_marker(marker) for marker in MARKED_FOLDERS):
        missing = _missing_server()
        if missing:
            pytest.fail(missing, pytrace=False)


def _missing_server() -> str:
    try:
        find_nats_server()
    except EmbeddedServerError as error:
        return str(error)
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report in the last line how many tests were skipped for want of the nats command."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_NATS_COMMAND in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"NOT TRIED: {count} tests, since {NO_NATS_COMMAND}", yellow=True, bold=True)


@pytest.fixture(autouse=True)
def nothing_is_left_running(request: pytest.FixtureRequest) -> None:
    """Apply `loop_that_ends_empty` to every async test. It is set up first, and so torn down last."""
    if isinstance(request.node, pytest.Function) and inspect.iscoroutinefunction(request.node.obj):
        request.getfixturevalue("loop_that_ends_empty")


@pytest.fixture
async def loop_that_ends_empty() -> AsyncIterator[None]:
    """Fail a test that leaves an asyncio task running."""
    yield

    def left() -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    try:
        await wait_until(lambda: not left(), description="no asyncio task is left")
    except AssertionError as error:
        raise AssertionError(f"{error}: {left()}") from None


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The server that all tests of this process share; each test has its own `namespace` on it."""
    with EmbeddedServer() as shared:
        yield shared


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server for one test, which may kill, restart and fill it."""
    with EmbeddedServer() as own:
        yield own


@pytest.fixture
def namespace() -> str:
    """A unique namespace; not from `random`, which is seeded anew before each test."""
    return f"t{secrets.token_hex(6)}"
