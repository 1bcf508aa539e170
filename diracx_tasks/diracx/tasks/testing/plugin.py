"""The pytest plugin with the fixtures `nats_server` and `mesh`.

pytest loads it in every run of the environment, so it imports nothing else of this project until a test asks for one of
its fixtures.

`mesh` has to open on the event loop of its test. Which loop that is depends on who runs the test:

    pytest-asyncio, strict or auto    the loop of the test's `loop_scope`: one fixture below for each scope
    anyio, the mark or auto mode      the loop of anyio, which takes over plain async fixtures of its own tests
    unittest.IsolatedAsyncioTestCase  a loop that no fixture can reach: refused, with the line to write instead
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from typing import Any, Final

import pytest

from diracx.tasks import testing

if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

_SCOPES: Final = ("function", "class", "module", "package", "session")
_ISOLATED: Final = (
    "the fixture mesh cannot open on the event loop of unittest.IsolatedAsyncioTestCase; write "
    "`self.mesh = await self.enterAsyncContext(Mesh.on(url))` in asyncSetUp, with the url of the fixture nats_server"
)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[testing.EmbeddedServer]:
    """A real nats-server on a free port of the loopback interface, for the whole session. Its `url` names it, with
    a password of this session: other users of the host cannot submit tasks.

    If it is not installed or does not start, the test fails with one line that says so; it is not skipped.
    """
    # The tasks of a test run as this user, so nobody else on this host may submit any.
    server = testing.EmbeddedServer(password=secrets.token_hex())
    try:
        server.start()
    except testing.EmbeddedServerError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.close()


@pytest.fixture
def mesh(request: pytest.FixtureRequest, nats_server: testing.EmbeddedServer) -> testing.Mesh:
    """A mesh in a namespace of this test's own, with the installed tasks, on the event loop of the test.

    `task.schedule()` submits to this mesh. The test fails if it leaves locks held or messages unsettled.
    """
    opened: testing.Mesh = request.getfixturevalue(_fixture_for(request))
    return opened


@pytest.fixture
async def _mesh_of_anyio(nats_server: testing.EmbeddedServer) -> AsyncIterator[testing.Mesh]:
    async with testing.Mesh.on(nats_server.url) as opened:
        yield opened


def _on_loop_of(scope: Any) -> Callable[..., object]:
    @pytest_asyncio.fixture(loop_scope=scope, name=f"_mesh_on_{scope}_loop")
    async def open_mesh(nats_server: testing.EmbeddedServer) -> AsyncIterator[testing.Mesh]:
        async with testing.Mesh.on(nats_server.url) as opened:
            yield opened

    return open_mesh


if "pytest_asyncio" in globals():
    # pytest finds fixtures by the attributes of a plugin.
    globals().update({f"_mesh_on_{scope}_loop": _on_loop_of(scope) for scope in _SCOPES})


def _fixture_for(request: pytest.FixtureRequest) -> str:
    """The name of the fixture that opens a mesh on the event loop of this test."""
    if hasattr(request.cls, "asyncSetUp"):
        pytest.fail(_ISOLATED, pytrace=False)
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        if "asyncio" not in (backend, backend[0]):
            pytest.fail(f"the fixture mesh needs asyncio, and this test runs on {backend}: set anyio_backend", False)
        return "_mesh_of_anyio"
    if "pytest_asyncio" not in globals():
        pytest.fail("the fixture mesh needs pytest-asyncio: pip install pytest-asyncio", pytrace=False)
    if not request.config.pluginmanager.has_plugin("asyncio"):
        pytest.fail("the fixture mesh needs pytest-asyncio, which `-p no:asyncio` switched off", pytrace=False)
    mark = request.node.get_closest_marker("asyncio")
    given = {} if mark is None else mark.kwargs
    scope = given.get("loop_scope") or given.get("scope") or request.config.getini("asyncio_default_test_loop_scope")
    return f"_mesh_on_{scope}_loop"
