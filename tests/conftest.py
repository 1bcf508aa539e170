"""A real nats-server for the tests that need one. Without it they fail and say what to install."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from diracx.tasks.plumbing.embedded.cluster import EmbeddedCluster
from diracx.tasks.plumbing.embedded.server import EmbeddedServer, EmbeddedServerError, find_nats_server
from diracx.tasks.testing import wait_until
from support.browser import NO_BROWSER, find_chromium
from support.cluster import three_replicas
from support.nats_command import find_nats

# The time of an example is no criterion on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

NO_NATS_COMMAND = (
    "the nats command is not on the PATH: go install github.com/nats-io/natscli/nats@latest; "
    "the commands of nats/README.md were not run"
)

ONE_SERVER = "one server only"
"""How the reason of a test begins that is not tried on a cluster."""
OWN_SERVER = f"{ONE_SERVER}: the test has a server of its own or none, so the cluster changes nothing"

TESTS = Path(__file__).parent
# An extension with tests of its own, which need it installed; see process/test_reference_extension.py.
collect_ignore = ["gubbins"]
MARKED_FOLDERS = ("broker", "process", "cluster", "browser")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--cluster`."""
    parser.addoption(
        "--cluster",
        action="store_true",
        help="run tests/cluster too; the shared server is one of a cluster of three, and meshes have three replicas",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/cluster alone without `--cluster`."""
    return True if collection_path == TESTS / "cluster" and not config.getoption("--cluster") else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests in tests/broker as `broker`, those in tests/process as `process`, and so on. Begin with the slow.

    A run takes as long as what begins last. Each of several processes has a share of the items, one after another.
    """
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)
    slow, others = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        (slow if item.get_closest_marker("slow") else others).append(item)
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    items.clear()
    for number in range(processes):
        items += slow[number::processes]
        items += others[len(others) * number // processes : len(others) * (number + 1) // processes]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of the nats command or a browser without it, and with `--cluster` those that are no tests of one.

    Without a server fail at once, in one line, those that need one.
    """
    if item.get_closest_marker("nats_command") and find_nats() is None:
        pytest.skip(NO_NATS_COMMAND)
    if item.get_closest_marker("browser") and find_chromium() is None:
        pytest.skip(NO_BROWSER)
    if item.config.getoption("--cluster"):
        _skip_what_needs_one_server(item)
    if any(item.get_closest_marker(marker) for marker in MARKED_FOLDERS):
        missing = _missing_server()
        if missing:
            pytest.fail(missing, pytrace=False)


def _skip_what_needs_one_server(item: pytest.Item) -> None:
    if marker := item.get_closest_marker("one_server"):
        (reason,) = marker.args
        pytest.skip(f"{ONE_SERVER}: {reason}")
    if item.get_closest_marker("cluster") is None and "server" not in getattr(item, "fixturenames", ()):
        pytest.skip(OWN_SERVER)


def _missing_server() -> str:
    try:
        find_nats_server()
    except EmbeddedServerError as error:
        return str(error)
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report in the last lines what was not tried: for want of the nats command or a browser, or on the cluster."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    lines = []
    if count := sum(NO_NATS_COMMAND in reason for reason in reasons):
        lines.append(f"NOT TRIED: {count} tests, since {NO_NATS_COMMAND}")
    if count := sum(NO_BROWSER in reason for reason in reasons):
        lines.append(f"NOT TRIED: {count} tests, since there is {NO_BROWSER}")
    if count := sum(ONE_SERVER in reason for reason in reasons):
        own = sum(OWN_SERVER in reason for reason in reasons)
        lines.append(
            f"NOT TRIED on the cluster: {count} tests, of which {own} have a server of their own or none, and "
            f"{count - own} are marked `one_server`; scripts/test runs them"
        )
    if not config.getoption("--cluster") and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        lines.append("NOT TRIED: tests/cluster, what three servers change; scripts/test --cluster runs it")
    for line in lines:
        terminalreporter.write_line(line, yellow=True, bold=True)


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
def cluster() -> Iterator[EmbeddedCluster]:
    """The cluster that all tests of this process share. A test that ends a server starts it again."""
    with EmbeddedCluster() as shared:
        yield shared


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """The server that all tests of this process share; each test has its own `namespace` on it.

    With `--cluster` it is one of three: most leaders are elsewhere.
    """
    if request.config.getoption("--cluster"):
        shared: EmbeddedCluster = request.getfixturevalue("cluster")
        yield shared.servers[0]
        return
    with EmbeddedServer() as single:
        yield single


@pytest.fixture(autouse=True)
def replicas(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--cluster`, a mesh on the shared server has three replicas; on a server of the test's own it has one."""
    names = set(request.fixturenames)
    if request.config.getoption("--cluster") and "server" in names and "own_server" not in names:
        with three_replicas():
            yield
    else:
        yield


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server for one test, which may kill, restart and fill it."""
    with EmbeddedServer() as own:
        yield own


@pytest.fixture
def namespace() -> str:
    """A unique namespace; not from `random`, which is seeded anew before each test."""
    return f"t{secrets.token_hex(6)}"
