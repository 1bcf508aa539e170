"""The configuration in its bucket, and the processes that follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.overrides import follower as follower_module
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.testing import wait_until
from support.scheduling import SchedulingMesh


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


def _has_vos(follower: ConfigurationFollower, vos: tuple[str, ...]) -> bool:
    return follower.current.vos == vos


@asynccontextmanager
async def following(mesh: SchedulingMesh) -> AsyncIterator[ConfigurationFollower]:
    follower = ConfigurationFollower(mesh.connection, mesh.namespace)
    running = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_followers_see_a_new_configuration_within_two_seconds(mesh: SchedulingMesh) -> None:
    changes: list[Configuration] = []
    async with following(mesh) as follower:
        follower.on_change(lambda: changes.append(follower.current))
        for vos in (("lhcb",), ("lhcb", "atlas")):
            await mesh.configuration.write(f"vos: [{', '.join(vos)}]")
            await wait_until(partial(_has_vos, follower, vos), description="it is in force", timeout=2)
    assert [change.vos for change in changes] == [("lhcb",), ("lhcb", "atlas")]


async def test_the_text_is_kept_as_it_was_written(mesh: SchedulingMesh) -> None:
    assert await mesh.configuration.read() == ("", 0)
    text = "# ours\nvos: [lhcb]   # and no other\n"
    revision = await mesh.configuration.write(text)
    assert await mesh.configuration.read() == (text, revision)


async def test_a_bad_configuration_is_not_stored(mesh: SchedulingMesh) -> None:
    await mesh.configuration.write("vos: [lhcb]")
    with pytest.raises(ConfigurationError):
        await mesh.configuration.write("vo: [atlas]")
    assert (await mesh.configuration.read())[0] == "vos: [lhcb]"


async def test_a_bad_text_written_past_the_check_is_logged_once_and_the_last_good_one_stays(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    await mesh.configuration.write("vos: [lhcb]")
    follower = ConfigurationFollower(mesh.connection, mesh.namespace)
    await follower.refresh()
    await mesh.connection.request(f"$KV.{mesh.namespace.config_bucket}.configuration", b"vo: [atlas]")
    for _ in range(2):
        await follower.refresh()
    assert follower.current.vos == ("lhcb",)
    assert len([record for record in caplog.records if "is not in force" in record.message]) == 1


async def test_a_text_that_breaks_the_parser_is_logged_with_a_traceback_and_ends_no_follower(
    mesh: SchedulingMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(text: str) -> Configuration:
        raise RecursionError("too deep")

    await mesh.configuration.write("vos: [lhcb]")
    async with following(mesh) as follower:
        await wait_until(partial(_has_vos, follower, ("lhcb",)), description="it is in force")
        with monkeypatch.context() as patch:
            patch.setattr(follower_module, "parse", breaks)
            await mesh.connection.request(f"$KV.{mesh.namespace.config_bucket}.configuration", b"vos: [atlas]")
            await wait_until(lambda: caplog.records, description="it is logged")
        assert caplog.records[0].exc_info is not None
        await mesh.configuration.write("vos: [cms]")
        await wait_until(partial(_has_vos, follower, ("cms",)), description="the next text is in force")
    assert "revision 2 of the configuration is not in force: too deep" in caplog.text
