"""The page of the configuration, on a real bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.overrides.follower import KEY, ConfigurationBucket
from diracx.tasks.plumbing.wire.names import Namespace
from support.dashboard_client import HOSTILE, Client, visiting

FIRST = "vos: [lhcb]\n"
SECOND = "vos: [lhcb, atlas]\nlimits: {Job: {default: {concurrency_limit: 5}}}\n"


@pytest.fixture
async def client(connection: Connection, topology: Namespace) -> AsyncIterator[Client]:
    async with visiting(connection, topology) as client:
        yield client


@pytest.fixture
def written(connection: Connection, topology: Namespace) -> ConfigurationBucket:
    return ConfigurationBucket(connection, topology, author=HOSTILE.replace("\x1b", ""))


def revisions(client_page: list[str]) -> list[str]:
    return [link for link in client_page if link.startswith("/configuration?revision=")]


async def test_the_text_in_force_its_history_and_its_limits_are_shown(
    client: Client, written: ConfigurationBucket
) -> None:
    assert "No configuration was ever set" in (await client.get("/configuration")).text
    await written.write(FIRST)
    await written.write(SECOND)
    client.dashboard.mesh.forget()
    page = await client.get("/configuration")
    assert "In force: revision 2" in page.text
    assert SECOND.splitlines()[1] in page.text
    assert "the mesh vos: lhcb → lhcb, atlas" in page.text
    assert "job default all VOs concurrency_limit 5" in page.text
    assert revisions(page.links) == ["/configuration?revision=2", "/configuration?revision=1"]
    assert "diracx-task-run config set FILE" in page.text
    first = await client.get("/configuration?revision=1")
    assert "Revision 1, not in force" in first.text


async def test_two_revisions_are_compared_line_by_line(client: Client, written: ConfigurationBucket) -> None:
    await written.write(FIRST)
    await written.write(SECOND)
    page = await client.get("/configuration?from=1&to=2")
    kinds = [values["class"] for tag, values in page.tags if tag == "span" and values.get("class") in KINDS]
    assert kinds == ["place", "removed", "added", "added"]
    assert "-vos: [lhcb]" in page.text
    assert "are the same" in (await client.get("/configuration?from=2&to=2")).text
    assert (await client.get("/configuration?from=1&to=9")).status == 200


KINDS = ("added", "removed", "place", "same")


async def test_an_invalid_or_removed_text_says_what_is_in_force(
    client: Client, written: ConfigurationBucket, connection: Connection, topology: Namespace
) -> None:
    await written.write(FIRST)
    bucket = Bucket(connection, topology.config_bucket)
    await bucket.replace(KEY, f'"{HOSTILE}": ['.encode(), None, 1)
    page = await client.get("/configuration")
    assert "Revision 2 is not valid: revision 1 stays in force" in page.text
    page.assert_harmless()
    bad = await client.get("/configuration?revision=2")
    assert "Revision 2, not in force" in bad.text
    bad.assert_harmless()
    (await client.get("/configuration?from=1&to=2")).assert_harmless()
    (await client.get("/configuration", **{"from": HOSTILE, "to": HOSTILE, "revision": HOSTILE})).assert_harmless()


async def test_a_mesh_without_the_bucket_says_what_creates_it(connection: Connection, names: Namespace) -> None:
    async with visiting(connection, names) as client:
        page = await client.get("/configuration")
    assert "diracx-task-run setup" in page.text
