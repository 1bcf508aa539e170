"""The page of locks, and their release, beside a worker whose tasks hold one and wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from diracx.tasks.dashboard.pages import locks as locks_module
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.wire.names import Namespace, escape
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.dashboard_client import HOSTILE, Client, visiting
from support.mesh import TaskMesh
from support.recording_tasks import Wait

KEY = "mutex.job.alice"


class Locked(Wait):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "alice", ttl_ms=3_000)]


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


@pytest.fixture
async def client(connection: Connection, topology: Namespace) -> AsyncIterator[Client]:
    async with visiting(connection, topology) as client:
        yield client


def holder(task: str, id_: str, worker: str = "w") -> bytes:
    owner = {"owner": "o", "task": task, "id": id_, "worker": worker, "since": "2026-05-04T09:30:12Z"}
    return msgspec.json.encode(owner)


async def test_a_lock_shows_its_holder_and_who_waits_and_is_released_once_the_holder_has_noticed(
    mesh: TaskMesh,
) -> None:
    mesh.register(Locked)
    mesh.allows_residue = True
    holds = await Locked(1).schedule()
    async with (
        mesh.working(slots=2) as worker,
        advertised(worker, Counters(), mesh.connection, mesh.namespace),
        visiting(mesh.connection, mesh.namespace, mesh.registry) as client,
    ):
        await wait_until(lambda: recording_tasks.running, description="the holder runs")
        waits = await Locked(2).schedule()

        async def is_shown() -> bool:
            client.dashboard.mesh.forget()
            page = await client.get("/locks")
            return {f"/task?id={holds}", f"/task?id={waits}"} <= set(page.links)

        await wait_until(is_shown, description="holder and waiting task are shown")
        assert f"on {worker.id} since" in (await client.get("/locks")).text
        confirmation = await client.confirm("release", key=KEY)
        assert f"Held by test:Locked {holds} on {worker.id}" in confirmation.text
        assert "Its task runs on, beside the next owner, until it renews the lock" in confirmation.text
        page = await client.do("release", key=KEY)
        assert f"eleased {KEY}" in page.text
        assert f"{holds} on {worker.id}: it does not run any more" in page.text
        recording_tasks.go.set()


async def test_locks_are_found_by_a_part_of_their_key(
    client: Client, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await bucket.create(f"mutex.job.{number}", holder("a:B", str(number)))
    await bucket.create("rate.job.2./0", holder("a:B", "x"))
    page = await client.get("/locks", key="job.2")
    rows = [values["id"] for tag, values in page.tags if tag == "tr" and "id" in values]
    assert rows == ["lock-mutex.job.2", "lock-rate.job.2"]
    monkeypatch.setattr(locks_module, "MAX_ROWS", 1)
    assert "The first 1 of 4" in (await client.get("/locks")).text


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("rate.job.7./0", holder("a:B", "x"), "admissions in its window are forgotten"),
        ("leader.scheduler", holder("a:B", "x"), "leadership of the schedulers"),
        ("mutex.job.7", b"written by hand", "Nobody holds it"),
    ],
)
async def test_each_kind_says_what_its_release_means(
    client: Client, bucket: Bucket, key: str, value: bytes, sentence: str
) -> None:
    await bucket.create(key, value)
    lock = key.partition("./")[0]
    assert sentence in (await client.confirm("release", key=lock)).text
    assert f"eleased {lock}" in (await client.do("release", key=lock)).text
    assert await bucket.keys() == []
    gone = await client.confirm("release", key=lock)
    assert gone.status == 409
    assert "is held" in gone.text


async def test_a_lock_that_another_one_holds_by_now_is_not_released(client: Client, bucket: Bucket) -> None:
    revision = await bucket.create("mutex.job.7", holder("a:B", "dead"))
    form = (await client.confirm("release", key="mutex.job.7")).form("/actions/release")
    await bucket.delete("mutex.job.7", revision)
    await bucket.create("mutex.job.7", holder("a:B", "healthy"))
    page = await client.post("release", form.values)
    assert "mutex.job.7 is held by another one by now, a:B healthy on w: look again" in page.text
    assert await bucket.keys() == ["mutex.job.7"]
    without = [each for each in form.values if each[0] not in ("holders", "form")]
    assert "orm does not say who held it" in (await client.post("release", without)).text


async def test_a_release_that_is_pressed_twice_is_told_twice(client: Client, bucket: Bucket) -> None:
    await bucket.create("conc.job.7./0", holder("a:B", "x"))
    form = (await client.confirm("release", key="conc.job.7")).form("/actions/release")
    for _ in range(2):
        page = await client.post("release", form.values)
        assert (page.status, "eleased conc.job.7" in page.text) == (200, True), page.text


async def test_texts_of_others_are_harmless(client: Client, bucket: Bucket) -> None:
    key = f"mutex.job.{escape(HOSTILE)}"
    await bucket.create(key, holder(HOSTILE, HOSTILE, HOSTILE))
    await bucket.create("odd.job.7", holder("n" * 10_000, "i" * 200))
    for page in (
        await client.get("/locks"),
        await client.get("/locks", key=HOSTILE),
        await client.confirm("release", key=key),
        await client.confirm("release", key=HOSTILE),
    ):
        page.assert_harmless()


async def test_only_who_may_act_releases_one(
    client: Client, bucket: Bucket, connection: Connection, topology: Namespace
) -> None:
    await bucket.create("mutex.job.7", holder("a:B", "x"))
    values = [("key", "mutex.job.7")]
    assert (await client.post("release", values)).status == 403
    async with visiting(connection, topology, acts=False) as observer:
        assert not [form for form in (await observer.get("/locks")).forms if "release" in form.action]
        assert (await observer.confirm("release", *values)).status == 403
    assert await bucket.keys() == ["mutex.job.7"]


async def test_a_mesh_without_the_bucket_says_what_creates_it(connection: Connection, names: Namespace) -> None:
    async with visiting(connection, names) as client:
        page = await client.get("/locks")
        assert "diracx-task-run setup" in page.text
        # A page that cannot be made says why.
        assert (await client.get("/")).status == 503
