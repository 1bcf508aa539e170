"""A real nats-server for the tests that need one; without it they fail and say what to install."""

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

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

NO_NATS_COMMAND = (
    "the nats command is not on the PATH: go install github.com/nats-io/natscli/nats@latest; "
    "the commands of nats/README.md were typed by nobody"
)

TESTS = Path(__file__).parent
# An extension with tests of its own, which need it installed; see process/test_reference_extension.py.
collect_ignore = ["gubbins"]
MARKED_FOLDERS = ("broker", "process")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in tests/broker as `broker` and those in tests/process as `process`."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail at once, in one line, where there is no server to run; and remember what was not tried."""
    if item.get_closest_marker("nats_command") and find_nats() is None:
        pytest.skip(NO_NATS_COMMAND)
    if any(item.get_closest_marker(marker) for marker in MARKED_FOLDERS):
        missing = _what_is_missing()
        if missing:
            pytest.fail(missing, pytrace=False)


def _what_is_missing() -> str:
    try:
        find_nats_server()
    except EmbeddedServerError as error:
        return str(error)
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say last, and in any verbosity, what was left out for want of the nats command."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_NATS_COMMAND in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"NOT TRIED: {count} tests, since {NO_NATS_COMMAND}", yellow=True, bold=True)


@pytest.fixture(autouse=True)
def nothing_is_left_running(request: pytest.FixtureRequest) -> None:
    """Set up first and so torn down last."""
    if isinstance(request.node, pytest.Function) and inspect.iscoroutinefunction(request.node.obj):
        request.getfixturevalue("loop_that_ends_empty")


@pytest.fixture
async def loop_that_ends_empty() -> AsyncIterator[None]:
    """Fail a test that leaves a task running, which a process that ends would have to wait for."""
    yield

    def left() -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    try:
        await wait_until(lambda: not left(), description="nothing is left running")
    except AssertionError as error:
        raise AssertionError(f"{error}: {left()}") from None


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The server that all tests share, with a file store; a `namespace` keeps them apart."""
    with EmbeddedServer() as shared:
        yield shared


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server for one test, which may kill, restart and fill it."""
    with EmbeddedServer() as own:
        yield own


@pytest.fixture
def namespace() -> str:
    """A namespace that nobody else has; not from `random`, which is seeded anew before each test."""
    return f"t{secrets.token_hex(6)}"
