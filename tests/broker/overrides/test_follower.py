"""The configuration in its bucket, and the processes that follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.overrides import layouts
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket, ConfigurationFollower, in_force
from diracx.tasks.testing import wait_until
from support.configuration_followers import following
from support.scheduling import SchedulingMesh

SLACK = timedelta(seconds=1)
"""By how much two clocks of one machine may differ."""


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


def _has_vos(follower: ConfigurationFollower, vos: tuple[str, ...]) -> bool:
    return follower.current.vos == vos


async def test_followers_see_a_new_configuration(mesh: SchedulingMesh) -> None:
    changes: list[Configuration] = []
    async with following(mesh.connection, mesh.namespace) as follower:
        follower.on_change(lambda: changes.append(follower.current))
        for vos in (("lhcb",), ("lhcb", "atlas")):
            await mesh.configuration.write(f"vos: [{', '.join(vos)}]")
            await wait_until(partial(_has_vos, follower, vos), description="it is in force")
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
    async with following(mesh.connection, mesh.namespace) as follower:
        await wait_until(partial(_has_vos, follower, ("lhcb",)), description="it is in force")
        with monkeypatch.context() as patch:
            patch.setattr(layouts, "parse", breaks)
            await mesh.connection.request(f"$KV.{mesh.namespace.config_bucket}.configuration", b"vos: [atlas]")
            await wait_until(lambda: caplog.records, description="it is logged")
        assert caplog.records[0].exc_info is not None
        await mesh.configuration.write("vos: [cms]")
        await wait_until(partial(_has_vos, follower, ("cms",)), description="the next text is in force")
    assert "revision 2 of the configuration is not in force: too deep" in caplog.text


async def by_hand(mesh: SchedulingMesh, text: bytes, **headers: str) -> None:
    """Write a text past the check, or with a header of another client."""
    subject = f"$KV.{mesh.namespace.config_bucket}.configuration"
    await mesh.connection.request(
        subject, text, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


async def test_a_process_that_starts_takes_the_latest_valid_text_like_those_that_run(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    running = ConfigurationFollower(mesh.connection, mesh.namespace)
    for vos in ("lhcb", "atlas"):
        await mesh.configuration.write(f"vos: [{vos}]")
    await running.refresh()
    for text in (b"vo: [cms]", b"vos: 7", b"["):
        await by_hand(mesh, text)
    await running.refresh()
    caplog.clear()
    starting = ConfigurationFollower(mesh.connection, mesh.namespace)
    await asyncio.gather(starting.refresh(), starting.refresh())  # as a scheduler that starts does
    await starting.refresh()
    assert running.current.vos == starting.current.vos == ("atlas",)
    assert (running.revision, starting.revision) == (5, 5)
    assert len([record for record in caplog.records if "is not in force" in record.message]) == 1
    await mesh.configuration.write("vos: [cms]")
    await starting.refresh()
    assert starting.current.vos == ("cms",)


async def test_a_valid_text_between_two_polls_is_not_missed_when_an_invalid_one_follows_it(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    running = ConfigurationFollower(mesh.connection, mesh.namespace)
    await mesh.configuration.write("vos: [lhcb]")
    await running.refresh()
    await mesh.configuration.write("vos: [atlas]")
    await by_hand(mesh, b"vos: 7")
    starting = ConfigurationFollower(mesh.connection, mesh.namespace)
    for follower in (running, starting):
        await follower.refresh()
    assert (running.current.vos, starting.current.vos) == (("atlas",), ("atlas",))
    await by_hand(mesh, b"vos: 8")
    changes: list[Configuration] = []
    running.on_change(lambda: changes.append(running.current))
    await running.refresh()
    assert (running.current.vos, changes) == (("atlas",), []), "it is in force already"


async def test_a_bucket_without_a_valid_text_gives_the_empty_configuration(mesh: SchedulingMesh) -> None:
    await by_hand(mesh, b"vos: 7")
    starting = ConfigurationFollower(mesh.connection, mesh.namespace)
    await starting.refresh()
    assert (starting.current, starting.revision) == (Configuration(), 1)
    assert in_force(await mesh.configuration.revisions()) is None


async def test_a_process_that_has_seen_no_text_keeps_none_when_the_first_one_is_invalid(mesh: SchedulingMesh) -> None:
    running = ConfigurationFollower(mesh.connection, mesh.namespace)
    await running.refresh()
    await by_hand(mesh, b"vos: 7")
    await running.refresh()
    assert (running.current, running.revision) == (Configuration(), 1)


async def test_a_text_that_was_removed_by_hand_leaves_no_configuration(mesh: SchedulingMesh) -> None:
    await mesh.configuration.write("vos: [lhcb]")
    follower = ConfigurationFollower(mesh.connection, mesh.namespace)
    await follower.refresh()
    await by_hand(mesh, b"", KV_Operation="DEL")
    await follower.refresh()
    assert follower.current == Configuration()
    await by_hand(mesh, b"vos: 7")
    starting = ConfigurationFollower(mesh.connection, mesh.namespace)
    await starting.refresh()
    assert starting.current == Configuration()
    assert [revision.text for revision in await mesh.configuration.revisions()] == ["vos: [lhcb]", None, "vos: 7"]


async def test_the_last_revisions_are_kept_with_their_time_and_author(mesh: SchedulingMesh) -> None:
    assert await mesh.configuration.revisions() == []
    before = datetime.now(UTC)
    for number in range(22):
        author = f"Zoë {number}@node1" if number % 2 else ""
        bucket = ConfigurationBucket(mesh.connection, mesh.namespace, author=author)
        await bucket.write(f"vos: [vo{number}]")
    kept = await mesh.configuration.revisions()
    assert [revision.number for revision in kept] == list(range(3, 23))
    assert [revision.parsed().vos for revision in kept] == [(f"vo{number}",) for number in range(2, 22)]
    assert [revision.author for revision in kept[:2]] == [None, "Zoë 3@node1"]
    assert all(before - SLACK <= revision.written <= datetime.now(UTC) + SLACK for revision in kept)
    assert kept == sorted(kept, key=lambda revision: revision.written)


async def test_of_two_that_replace_one_revision_the_second_is_refused(mesh: SchedulingMesh) -> None:
    first = await mesh.configuration.write("vos: [lhcb]", replacing=0)
    second = await mesh.configuration.write("vos: [atlas]", replacing=first)
    for seen in (0, first):
        with pytest.raises(RevisionConflictError):
            await mesh.configuration.write("vos: [cms]", replacing=seen)
    assert await mesh.configuration.read() == ("vos: [atlas]", second)


async def test_of_many_that_write_at_once_the_later_counts_and_none_is_lost(mesh: SchedulingMesh) -> None:
    texts = [f"vos: [vo{number}]" for number in range(8)]
    numbers = await asyncio.gather(*(mesh.configuration.write(text) for text in texts))
    assert sorted(numbers) == list(range(1, 9))
    assert {revision.number: revision.text for revision in await mesh.configuration.revisions()} == dict(
        zip(numbers, texts, strict=True)
    )
