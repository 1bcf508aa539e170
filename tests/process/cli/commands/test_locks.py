"""`locks list` and `locks release`, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import ConcurrencyLimiter, ExclusiveRWLock, MutexLock, RateLimiter, SharedRWLock
from diracx.tasks.plumbing.scheduler.leadership import LeaderLock
from diracx.tasks.plumbing.wire.names import Namespace
from support.command_line import CommandLine
from support.locking import new_owner
from support.paths import CONSOLE_SCRIPT
from support.processes import LoggedProcess


@pytest.fixture
async def bucket(server: EmbeddedServer, namespace: str) -> AsyncIterator[Bucket]:
    names = Namespace(namespace)
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="a test", inbox_prefix="_INBOX_test") as connection:
        await ensure(connection, [asset for asset in assets(names) if asset.name == names.locks_bucket])
        yield Bucket(connection, names.locks_bucket)
        await connection.api(f"STREAM.DELETE.KV_{names.locks_bucket}")


@pytest.fixture
def environment(server: EmbeddedServer, namespace: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DIRACX_")}
    return clean | {"DIRACX_TASKS_NATS_URL": server.url, "DIRACX_TASKS_NAMESPACE": namespace, "COLUMNS": "200"}


async def run(
    environment: dict[str, str], *arguments: str, answer: str | None = None
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [str(CONSOLE_SCRIPT), "locks", *arguments],
        env=environment,
        input=answer or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_locks_of_all_kinds_are_listed_with_their_holders(bucket: Bucket, environment: dict[str, str]) -> None:
    await MutexLock(JOB, "a.b").acquire(bucket, new_owner("w1"))
    for number in range(2):
        await SharedRWLock(JOB, 7).acquire(bucket, new_owner(f"reader-{number}"))
        await ConcurrencyLimiter(JOB, 7, limit=2).acquire(bucket, new_owner())
    await RateLimiter(JOB, 7, limit=2, window_seconds=60).acquire(bucket, new_owner())
    listed = await run(environment, "list", "--json")
    assert listed.returncode == 0, listed.stderr
    locks = json.loads(listed.stdout)
    assert [(lock["key"], lock["kind"], len(lock["holders"])) for lock in locks] == [
        ("conc.job.7", "conc", 2),
        ("mutex.job.a=2Eb", "mutex", 1),
        ("rate.job.7", "rate", 1),
        ("rw.job.7", "rw", 2),
    ]
    mutex = locks[1]
    assert list(mutex) == ["key", "kind", "holders", "expires_in"]
    assert 0 < mutex["expires_in"] <= 30
    assert list(mutex["holders"][0]) == ["task", "id", "worker", "since"]
    assert mutex["holders"][0]["worker"] == "w1"
    table = await run(environment, "list")
    assert [line.split()[0] for line in table.stdout.splitlines()] == [
        "key", "conc.job.7", "conc.job.7", "mutex.job.a=2Eb", "rate.job.7", "rw.job.7", "rw.job.7",
    ]  # fmt: skip


async def test_nothing_held_is_an_empty_list(bucket: Bucket, environment: dict[str, str]) -> None:
    assert json.loads((await run(environment, "list", "--json")).stdout) == []
    assert "no locks are held" in (await run(environment, "list")).stderr


async def test_a_server_without_the_bucket_is_a_warning(environment: dict[str, str], namespace: str) -> None:
    listed = await run(environment, "list", "--json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, [])
    assert f"bucket {namespace}_locks is missing on this server" in listed.stderr


async def test_a_lock_is_released_after_a_yes_and_all_its_keys_go(bucket: Bucket, environment: dict[str, str]) -> None:
    for number in range(2):
        await SharedRWLock(JOB, 7).acquire(bucket, new_owner(f"reader-{number}"))
    await MutexLock(JOB, 8).acquire(bucket, new_owner())
    refused = await run(environment, "release", "rw.job.7", answer="n\n")
    assert refused.returncode != 0
    assert "Held by lollygag:SyncOwnersTask 0192 on reader-0 since 2" in refused.stderr
    assert "Its task runs on, beside the next owner, until it renews the lock" in refused.stderr
    assert "Release rw.job.7?" in refused.stderr
    assert len(await bucket.keys()) == 3
    done = await run(environment, "release", "rw.job.7", answer="y\n")
    assert done.returncode == 0, done.stderr
    assert "lollygag:SyncOwnersTask 0192 on reader-1: it does not answer. If it lives, its task runs" in done.stderr
    assert await bucket.keys() == ["mutex.job.8"]
    await (await ExclusiveRWLock(JOB, 7).acquire(bucket, new_owner())).release()


async def test_a_lock_that_another_one_holds_by_the_answer_is_not_released(
    bucket: Bucket, environment: dict[str, str]
) -> None:
    acquired = await MutexLock(JOB, 8).acquire(bucket, new_owner("w1"))
    asking = await asyncio.create_subprocess_exec(
        str(CONSOLE_SCRIPT), "locks", "release", "mutex.job.8", env=environment, stdin=PIPE, stderr=PIPE
    )
    assert asking.stderr is not None
    asked = await asyncio.wait_for(asking.stderr.readuntil(b"Release mutex.job.8?"), 30)
    assert b"on w1 since" in asked
    await acquired.release()
    await MutexLock(JOB, 8).acquire(bucket, new_owner("w2"))
    _, rest = await asyncio.wait_for(asking.communicate(b"y\n"), 30)
    assert asking.returncode == 75
    told = b"nothing was released: mutex.job.8 is held by another one by now, lollygag:SyncOwnersTask 0192 on w2"
    assert told in rest
    assert await bucket.keys() == ["mutex.job.8"]


async def test_the_leadership_has_no_task_that_runs_on(bucket: Bucket, environment: dict[str, str]) -> None:
    await LeaderLock(timedelta(seconds=30)).acquire(bucket, new_owner("node1-411-scheduler"))
    (lock,) = json.loads((await run(environment, "list", "--json")).stdout)
    asked = await run(environment, "release", lock["key"], answer="y\n")
    assert asked.returncode == 0, asked.stderr
    assert "one of them takes it" in asked.stderr
    assert "its task runs on" not in asked.stderr.lower()
    assert asked.stderr.endswith(f"released {lock['key']}\n")


async def test_yes_skips_the_question(bucket: Bucket, environment: dict[str, str]) -> None:
    await MutexLock(JOB, 8).acquire(bucket, new_owner())
    done = await run(environment, "release", "mutex.job.8", "--yes")
    assert (done.returncode, done.stdout) == (0, "")
    assert await bucket.keys() == []


async def test_releasing_a_lock_that_is_not_held_is_a_usage_error(bucket: Bucket, environment: dict[str, str]) -> None:
    refused = await run(environment, "release", "mutex.job.9", "--yes")
    assert refused.returncode == 2
    assert "no lock mutex.job.9 is held" in refused.stderr


async def test_the_holder_of_a_released_lock_is_waited_for(with_server: CommandLine) -> None:
    worker = LoggedProcess(with_server, "worker", "--worker-size", "small")
    task_id = with_server("submit", "lollygag:Waits", "--args", '["held"]').stdout.strip()
    await with_server.wait_for_line("begin held")
    (lock,) = with_server.json("locks", "list")
    done = with_server("locks", "release", lock["key"], "--yes")
    assert done.returncode == 0, done.stderr
    first, second = done.stderr.splitlines()
    assert first == f"released {lock['key']}"
    assert second == f"lollygag:Waits {task_id} on {lock['holders'][0]['worker']}: it does not run any more"
    assert "cancelled held" in with_server.journal()
    (with_server.folder / "held").touch()
    await with_server.wait_for_line("end held")
    assert await worker.stop() == 0
