"""A bucket of the key-value store on a real server, under revision compare-and-set."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import ApiError
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks import Entry, RevisionConflictError
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

TTL = timedelta(seconds=30)


async def state(connection: Connection, bucket: Bucket) -> dict[str, Any]:
    found: dict[str, Any] = (await connection.api(f"STREAM.INFO.KV_{bucket.name}"))["state"]
    return found


async def stored_headers(connection: Connection, bucket: Bucket, key: str) -> list[str]:
    answer = await connection.api(f"STREAM.MSG.GET.KV_{bucket.name}", {"last_by_subj": f"$KV.{bucket.name}.{key}"})
    return b64decode(answer["message"].get("hdrs", "")).decode().split("\r\n")


async def test_a_key_is_created_read_replaced_and_deleted_by_its_revision(bucket: Bucket) -> None:
    assert await bucket.read("a.b") is None
    first = await bucket.create("a.b", b"1", TTL)
    assert await bucket.read("a.b") == Entry(value=b"1", revision=first)
    second = await bucket.replace("a.b", b"2", TTL, first)
    assert second > first
    assert await bucket.read("a.b") == Entry(value=b"2", revision=second)
    await bucket.delete("a.b", second)
    assert await bucket.read("a.b") is None


@pytest.mark.parametrize("value", [b"", b"\x00\xff\r\n", b"a" * 100_000], ids=["empty", "binary", "long"])
async def test_any_value_reads_back(bucket: Bucket, value: bytes) -> None:
    revision = await bucket.create("k", value)
    assert await bucket.read("k") == Entry(value=value, revision=revision)


async def test_a_key_that_exists_is_not_created_again(bucket: Bucket) -> None:
    revision = await bucket.create("k", b"mine", TTL)
    with pytest.raises(RevisionConflictError):
        await bucket.create("k", b"theirs", TTL)
    assert await bucket.read("k") == Entry(value=b"mine", revision=revision)


async def test_of_many_that_create_one_key_at_once_one_wins(bucket: Bucket) -> None:
    outcomes = await asyncio.gather(
        *(bucket.create("k", b"%d" % number, TTL) for number in range(50)), return_exceptions=True
    )
    revisions = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(revisions) == 1
    assert sum(isinstance(outcome, RevisionConflictError) for outcome in outcomes) == 49
    assert await bucket.read("k") == Entry(value=b"%d" % outcomes.index(revisions[0]), revision=revisions[0])


async def test_a_stale_revision_replaces_nothing(bucket: Bucket) -> None:
    first = await bucket.create("k", b"1")
    second = await bucket.replace("k", b"2", None, first)
    with pytest.raises(RevisionConflictError):
        await bucket.replace("k", b"3", None, first)
    assert await bucket.read("k") == Entry(value=b"2", revision=second)


async def test_a_key_that_is_gone_is_not_replaced(bucket: Bucket) -> None:
    revision = await bucket.create("k", b"1")
    await bucket.delete("k", revision)
    with pytest.raises(RevisionConflictError):
        await bucket.replace("k", b"2", None, revision)


async def test_deleting_a_revision_leaves_the_one_of_somebody_else(bucket: Bucket) -> None:
    stale = await bucket.create("k", b"mine")
    theirs = await bucket.replace("k", b"theirs", None, stale)
    await bucket.delete("k", stale)
    await bucket.delete("k", stale)
    assert await bucket.read("k") == Entry(value=b"theirs", revision=theirs)


@pytest.mark.parametrize(("seconds", "header"), [(1, "1s"), (1.001, "2s"), (0.5, "1s"), (30, "30s")])
async def test_a_time_to_live_is_rounded_up_to_whole_seconds(
    connection: Connection, bucket: Bucket, seconds: float, header: str
) -> None:
    ttl = timedelta(seconds=seconds)
    revision = await bucket.create("k", b"1", ttl)
    assert f"Nats-TTL: {header}" in await stored_headers(connection, bucket, "k")
    await bucket.replace("k", b"2", ttl, revision)
    assert f"Nats-TTL: {header}" in await stored_headers(connection, bucket, "k")


async def test_a_key_expires_and_its_revision_goes_on_rising(connection: Connection, bucket: Bucket) -> None:
    first = await bucket.create("k", b"1", timedelta(seconds=1))
    await wait_until(lambda: _is_gone(bucket, "k"), description="the key expired")
    assert (await state(connection, bucket))["messages"] == 0
    second = await bucket.create("k", b"2", TTL)
    await bucket.delete("k", second)
    third = await bucket.create("k", b"3", TTL)
    assert first < second < third


async def _is_gone(bucket: Bucket, key: str) -> bool:
    return await bucket.read(key) is None


async def test_a_key_without_a_time_to_live_has_no_such_header(connection: Connection, bucket: Bucket) -> None:
    await bucket.create("k", b"1")
    assert not any("TTL" in line for line in await stored_headers(connection, bucket, "k"))


async def test_a_bucket_without_expiry_refuses_a_time_to_live(connection: Connection, topology: Namespace) -> None:
    with pytest.raises(ApiError, match="TTL"):
        await Bucket(connection, topology.attempts_bucket).create("k", b"1", TTL)


@pytest.mark.parametrize("marker", ["KV-Operation: DEL", "KV-Operation: PURGE", "Nats-Marker-Reason: MaxAge"])
async def test_the_marker_of_another_client_counts_as_free(connection: Connection, bucket: Bucket, marker: str) -> None:
    await bucket.create("k", b"1")
    name, value = marker.split(": ")
    await connection.request(f"$KV.{bucket.name}.k", b"", headers={name: value})
    assert await bucket.read("k") is None
    revision = await bucket.create("k", b"2", TTL)
    assert await bucket.read("k") == Entry(value=b"2", revision=revision)


async def test_a_value_that_speaks_of_an_operation_is_no_marker(bucket: Bucket) -> None:
    await bucket.create("k", b"KV-Operation: DEL")
    assert await bucket.read("k") is not None


async def test_nothing_is_left_behind_by_keys_that_came_and_went(connection: Connection, bucket: Bucket) -> None:
    async def come_and_go(key: str) -> None:
        for _ in range(5):
            await bucket.delete(key, await bucket.create(key, b"x", TTL))

    await asyncio.gather(*(come_and_go(f"k{number}") for number in range(40)))
    left = await state(connection, bucket)
    assert (left["messages"], left["bytes"], left.get("num_subjects", 0)) == (0, 0, 0)
    assert left["last_seq"] == 200


async def test_the_keys_of_an_empty_bucket_are_none(bucket: Bucket) -> None:
    assert await bucket.keys() == []


async def test_all_keys_are_listed_beyond_a_page_of_the_server(connection: Connection, bucket: Bucket) -> None:
    # The server lists 100,000 subjects a page; stored without answers, which is all the same to it.
    count = 100_003
    subject = f"$KV.{bucket.name}."
    for number in range(count):
        await connection.publish(f"{subject}mutex.job.{number}", b"")
        if number % 500 == 0:
            await asyncio.sleep(0)

    async def all_stored() -> bool:
        return int((await state(connection, bucket))["messages"]) == count

    await wait_until(all_stored, description="all keys are stored", timeout=60)
    keys = await bucket.keys()
    assert len(keys) == count
    assert set(keys) == {f"mutex.job.{number}" for number in range(count)}


async def test_a_bucket_that_is_missing_is_an_error(connection: Connection, names: Namespace) -> None:
    missing = Bucket(connection, names.locks_bucket)
    with pytest.raises(ApiError, match="stream not found"):
        await missing.read("k")
    with pytest.raises(ServerUnavailableError, match="no such stream"):
        await missing.create("k", b"1")


@pytest.mark.parametrize("key", ["", ".", ".a", "a.", "a..b", "*", ">", "a.>", "a b", "a\r\nb", "é", "\ud800", "a+b"])
async def test_what_is_no_key_is_refused_and_reads_no_other(bucket: Bucket, key: str) -> None:
    await bucket.create("a", b"1")
    with pytest.raises(ValueError, match="is no key of a bucket: write letters"):
        await bucket.create(key, b"2")
    with pytest.raises(ValueError, match="is no key of a bucket: write letters"):
        await bucket.read(key)
    assert await bucket.living_keys() == ["a"]
