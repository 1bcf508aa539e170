"""Entries of periodic tasks against a real server: several schedules of one task, each with its own arguments."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.stream_messages import subjects_of
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Plan, Rule
from diracx.tasks.plumbing.scheduler.reconciler import REMOVAL_AGE, Change, ScheduleReconciler
from diracx.tasks.plumbing.scheduler.state import Occurrence, ScheduleKey
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.testing import wait_until
from support.scheduling import Hourly, OffByDefault, SchedulingMesh, SubmitPilots, more_than_once

TWO_VOS = """
vos: [lhcb, atlas]
tasks:
  test:SubmitPilots:
    entries:
      All: {args: {ce_regex: common}, schedule: {interval: 2}}
    vos:
      lhcb:
        entries:
          CERN: {args: {ce_regex: cern, count: 3}, schedule: {interval: 1}}
          RAL: {args: {ce_regex: ral}}
"""


def one_entry(regex: str, name: str = "CERN", more: str = "") -> str:
    entry = f"{name}: {{args: {{ce_regex: {regex}}}, schedule: {{interval: 1}}}}"
    return f"vos: [lhcb]\ntasks: {{test:SubmitPilots: {{entries: {{{entry}{more}}}}}}}"


async def bodies(mesh: SchedulingMesh) -> set[bytes]:
    return {each.body for each in await mesh.arrived()}


async def arrives(mesh: SchedulingMesh, *expected: bytes) -> None:
    async def arrived() -> bool:
        return set(expected) <= await bodies(mesh)

    await wait_until(arrived, description=f"{expected} have fallen due", timeout=15)


async def held_by(mesh: SchedulingMesh, prefix: str) -> int:
    return len([subject for subject in await mesh.held() if subject.startswith(f"test.SubmitPilots.{prefix}.")])


async def test_each_entry_runs_on_its_own_schedule_with_its_arguments_for_its_vo(mesh: SchedulingMesh) -> None:
    mesh.register(SubmitPilots)
    await mesh.configuration.write(TWO_VOS)
    cern, common = b'{"vo":"lhcb","ce_regex":"cern","count":3}', b'{"vo":"atlas","ce_regex":"common"}'
    async with mesh.scheduling():
        await arrives(mesh, cern, common)
    assert await bodies(mesh) == {cern, common}
    assert await held_by(mesh, "lhcb.+RAL") in (1, 2)
    for each in await mesh.arrived():
        name = "lhcb+CERN" if each.body == cern else "atlas+All"
        assert each.id == f"test:SubmitPilots@{name}-{each.due:%Y%m%dT%H%M%SZ}"
        assert each.body == cern or each.due.second % 2 == 0
    state = await mesh.schedule_state("SubmitPilots", "lhcb", "CERN")
    assert state is not None
    assert (state.schedule, state.arguments) == ("every 1 s", b'{"ce_regex":"cern","count":3}')


async def test_new_arguments_are_in_force_at_once_and_no_occurrence_is_lost_or_doubled(mesh: SchedulingMesh) -> None:
    mesh.register(SubmitPilots)
    await mesh.configuration.write(one_entry("number0"))
    async with mesh.scheduling(name="one"), mesh.scheduling(name="two"):
        for number in range(4):
            await arrives(mesh, b'{"vo":"lhcb","ce_regex":"number%d"}' % number)
            await mesh.configuration.write(one_entry(f"number{number + 1}"))
            changed = datetime.now(UTC)
        await arrives(mesh, b'{"vo":"lhcb","ce_regex":"number4"}')
    arrived = sorted(await mesh.arrived(), key=lambda each: each.due)
    assert not more_than_once(arrived)
    assert all(later.due - each.due == timedelta(seconds=1) for each, later in itertools.pairwise(arrived))
    first = next(each.due for each in arrived if b"number4" in each.body)
    # The follower polls each second. Without a replacement, those of the next 45 s would have the old arguments.
    assert first - changed < timedelta(seconds=20)


async def test_an_entry_that_is_renamed_or_removed_ends_and_its_occurrences_are_withdrawn(mesh: SchedulingMesh) -> None:
    mesh.register(SubmitPilots)
    await mesh.configuration.write(one_entry("a", "Old", ", Other: {args: {ce_regex: b}}"))
    async with mesh.scheduling():
        await arrives(mesh, b'{"vo":"lhcb","ce_regex":"a"}')
        await mesh.configuration.write(one_entry("c", "New", ", Other: {args: {ce_regex: b}}"))
        await arrives(mesh, b'{"vo":"lhcb","ce_regex":"c"}')

        async def withdrawn() -> bool:
            return not await held_by(mesh, "lhcb.+Old")

        await wait_until(withdrawn, description="the occurrences of the old one are withdrawn")
        assert await held_by(mesh, "lhcb.+Other")
        state = await mesh.schedule_state("SubmitPilots", "lhcb", "Old")
        assert state is not None
        assert not state.enabled
    assert not more_than_once(await mesh.arrived())


async def test_an_entry_with_arguments_that_do_not_fit_is_logged_once_with_its_path_and_harms_no_other(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(SubmitPilots)
    bad = ", Bad: {args: {ce_rgx: x}, schedule: {interval: 1}}"
    await mesh.configuration.write(one_entry("a", more=bad))
    async with mesh.scheduling():
        await arrives(mesh, b'{"vo":"lhcb","ce_regex":"a"}')
        await mesh.configuration.write(one_entry("b", more=bad))
        await arrives(mesh, b'{"vo":"lhcb","ce_regex":"b"}')
    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert told == (
        "test:SubmitPilots@lhcb+Bad is not scheduled: tasks.test:SubmitPilots.entries.Bad.args: "
        "SubmitPilots has no field 'ce_rgx'; did you mean ce_regex?"
    )
    assert not await held_by(mesh, "lhcb.+Bad")


async def test_a_task_that_is_off_by_default_runs_once_the_configuration_switches_it_on(mesh: SchedulingMesh) -> None:
    mesh.register(OffByDefault, Hourly)
    async with mesh.scheduling():

        async def hourly_is_held() -> bool:
            return any(subject.startswith("test.Hourly.") for subject in await mesh.held())

        await wait_until(hourly_is_held, description="the other task is scheduled")
        assert await mesh.schedule_state("OffByDefault") is None
        await mesh.configuration.write("tasks: {test:OffByDefault: {enabled: true}}")
        await wait_until(mesh.waiting, description="it runs")
    assert {each.headers["Task-Name"] for each in await mesh.arrived()} == {"test:OffByDefault"}


HOURLY = IntervalSeconds(3600)


def instance(arguments: bytes, *, removed: bool = False) -> Instance:
    rule = Rule(HOURLY, not removed, arguments)
    key = ScheduleKey("test:SubmitPilots", "lhcb", "CERN")
    return Instance(key, rule, Priority.NORMAL, Size.SMALL, arguments or b"{}", removed=removed)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


async def test_a_write_that_replaces_an_occurrence_which_has_fallen_due_changes_nothing(mesh: SchedulingMesh) -> None:
    each = instance(b'{"a":1}')
    reconciler = ScheduleReconciler(mesh.store, timedelta(seconds=30), "a test")
    assert await reconciler.advance([each])
    before = (await mesh.store.read([each.key]))[each.key]
    held = await mesh.store.held(each.key, [*before.state.pending, before.state.after + timedelta(hours=9)])
    assert set(held) == set(before.state.pending)
    due = before.state.pending[0]
    plan = Plan(before.state, (Occurrence(due, None, replaces=held[due] - 1),))
    with pytest.raises(RevisionConflictError):
        await mesh.store.write([Change(each, plan, before.revision)])
    assert await mesh.store.read([each.key]) == {each.key: before}
    assert await mesh.store.held(each.key, [due]) == {due: held[due]}


async def test_an_occurrence_with_new_arguments_takes_the_place_of_the_old_one(mesh: SchedulingMesh) -> None:
    reconciler = ScheduleReconciler(mesh.store, timedelta(seconds=30), "a test")
    await reconciler.advance([instance(b'{"a":1}')])
    before = await mesh.held()
    other = instance(b'{"a":2}')
    assert reconciler.due([other]) == [other]
    await reconciler.advance([other])
    assert reconciler.due([other]) == []
    assert await mesh.held() == before
    stored = await mesh.stored(mesh.namespace.later_stream)
    assert {each.body for each in stored if ".periodic." in each.subject} == {b'{"a":2}'}
    assert len([each for each in stored if ".periodic." in each.subject]) == len(before)


async def test_the_state_of_a_removed_schedule_is_removed_after_a_while(mesh: SchedulingMesh) -> None:
    clock = Clock()
    reconciler = ScheduleReconciler(mesh.store, timedelta(seconds=30), "a test", clock)
    removed = instance(b"", removed=True)
    await reconciler.advance([instance(b'{"a":1}')])
    await reconciler.advance(reconciler.due([removed]))
    assert not await mesh.held()
    clock.now += REMOVAL_AGE - timedelta(seconds=1)
    assert reconciler.due([removed]) == []
    clock.now += timedelta(seconds=1)
    await reconciler.advance(reconciler.due([removed]))
    assert reconciler.due([removed]) == []
    assert await subjects_of(mesh.connection, mesh.namespace.later_stream, f"{mesh.namespace.name}.>") == []


async def test_a_state_that_was_written_after_the_removal_was_decided_stays(mesh: SchedulingMesh) -> None:
    each = instance(b'{"a":1}')
    await ScheduleReconciler(mesh.store, timedelta(seconds=30), "a test").advance([each])
    stored = (await mesh.store.read([each.key]))[each.key]
    await mesh.store.remove(each.key, stored.revision - 1)
    assert await mesh.store.read([each.key]) == {each.key: stored}
    assert dataclasses.astuple(each.key) == (stored.state.task, stored.state.vo, stored.state.entry)
    assert msgspec.json.decode(stored.state.arguments) == {"a": 1}


ODD_NAMES = ["a.b", "two words", "*", ">", "+lhcb", "é", "\n", "\x00", "=", "20261201T060000Z", "x" * 1_000]


async def test_odd_names_of_vos_and_entries_have_schedules_and_one_that_no_task_can_hold_stops_no_other(
    mesh: SchedulingMesh,
) -> None:
    """JSON cannot hold a lone surrogate, which stands for a byte that is not UTF-8."""
    mesh.register(SubmitPilots)
    printable = [name for name in ODD_NAMES if name.isprintable()]
    entries = {name: {"schedule": {"interval": 3600}} for name in printable}
    await mesh.configuration.write(json.dumps({"tasks": {"test:SubmitPilots": {"entries": entries}}}))
    vos = [*ODD_NAMES, "lhcb"]
    expected = {ScheduleKey("test:SubmitPilots", vo, entry) for vo in vos for entry in printable}
    async with mesh.scheduling("\udcff", *vos):

        async def every_schedule_is_supplied() -> bool:
            return {key for key, stored in (await mesh.store.read_all()).items() if stored.state.pending} == expected

        await wait_until(every_schedule_is_supplied, description="every VO has every entry", timeout=30)
    assert len({subject.rpartition(".")[0] for subject in await mesh.held()}) == len(expected)
