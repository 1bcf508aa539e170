"""Entries of periodic tasks, with real processes and two VOs; classes that are off by default."""

from __future__ import annotations

import json

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points
from support.processes import LoggedProcess

PILOTS = "acme:SubmitPilots"
DUMMY = "acme:DummyMonitor"

TWO_VOS = """
vos: [lhcb, atlas]
tasks:
  acme:SubmitPilots:
    schedule: {interval: 7200}
    entries:
      All: {args: {ce_regex: all}, schedule: {interval: 1}}
    vos:
      lhcb:
        entries:
          SubmitPilotsCERN: {args: {ce_regex: cern, count: 3}, schedule: {interval: 1}}
          SubmitPilotsRAL: {args: {ce_regex: ral}}
"""


@pytest.fixture
async def acme(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    """The command line with the distribution `pilot_tasks` and the shared server."""
    points = task_points("acme", "pilot_tasks.tasks", ("SubmitPilots", "DummyMonitor", "AsksFromNow"))
    install_extension(bare.folder / "site", "pilot_tasks", points)
    bare.environment |= {"DIRACX_TASKS_NATS_URL": server.url, "COLUMNS": "200"}
    await on_the_server.set_up()
    return bare


def configure(command_line: CommandLine, text: str) -> None:
    done = command_line("config", "set", "-", typed=text)
    assert done.returncode == 0, done.stderr


async def test_the_entries_of_two_vos_run_with_their_arguments_and_follow_the_configuration(acme: CommandLine) -> None:
    configure(acme, TWO_VOS)
    scheduler, worker = LoggedProcess(acme, "scheduler"), LoggedProcess(acme, "worker", "--worker-size", "small")
    await acme.wait_for_line("lhcb cern 3", 2)
    await acme.wait_for_line("atlas all 1", 2)
    await acme.wait_for_line("from now", 2)
    assert "dummy" not in acme.journal()
    configure(acme, TWO_VOS.replace("ce_regex: cern, count: 3", "ce_regex: cern2") + f"  {DUMMY}: {{enabled: true}}\n")
    await acme.wait_for_line("lhcb cern2 1")
    await acme.wait_for_line("dummy")
    # All of them, under another name.
    configure(acme, "vos: [lhcb, atlas]\ntasks: {SubmitPilots: {entries: {New: {schedule: {interval: 1}}}}}")
    await acme.wait_for_line("lhcb any 1")
    await acme.wait_for_line("atlas any 1", 2)
    assert not {"lhcb ral 1", "atlas cern 3", "lhcb all 1"} & set(acme.journal())

    def entries() -> set[tuple[str, str]]:
        return {(each["vo"], each["entry"]) for each in acme.json("schedule", "list") if each["task"] == PILOTS}

    def ran() -> list[dict[str, object]]:
        return [each["ran"] for each in acme.json("schedule", "list") if each["entry"] == "New" and each["ran"]]

    await wait_until(lambda: len(ran()) == 2, description="how the latest runs have ended is known")
    assert {each["outcome"] for each in ran()} <= {"succeeded", "expired"}
    assert list(ran()[0]) == ["due", "outcome", "ended", "duration", "error", "worker"]
    assert " at 20" in acme("schedule", "list").stdout
    await wait_until(lambda: entries() == {("atlas", "New"), ("lhcb", "New")}, description="the old entries have ended")
    assert (await scheduler.stop(), await worker.stop()) == (0, 0)


def test_entries_are_listed_and_run_by_name(acme: CommandLine) -> None:
    configure(acme, TWO_VOS.replace("SubmitPilotsRAL: {args: {ce_regex: ral}}", "SubmitPilotsRAL: {args: {}}"))
    run = ("schedule", "run", PILOTS, "--vo", "lhcb", "--entry", "SubmitPilotsCERN")
    shown = [(*command, *options) for command in (("schedule", "list"), ("tasks",)) for options in (("--json",), ())]
    schedules, schedule_table, installed, task_table, done = acme.each([*shown, run])
    cern = next(each for each in json.loads(schedules.stdout) if each["entry"] == "SubmitPilotsCERN")
    assert cern == {
        "task": PILOTS,
        "vo": "lhcb",
        "schedule": "every 1 s",
        "enabled": True,
        "last": None,
        "next": None,
        "why_not": "no scheduler has taken it up yet",
        "entry": "SubmitPilotsCERN",
        "args": {"ce_regex": "cern", "count": 3},
        "ran": None,
    }
    table = schedule_table.stdout
    assert "SubmitPilotsCERN" in table
    assert '{"ce_regex":"cern","count":3}' in table
    assert "off by default: `_enabled = False` in the code; the configuration may switch it on" in table
    tasks = {each["name"]: each["enabled_by_default"] for each in json.loads(installed.stdout)}
    assert tasks == {PILOTS: True, DUMMY: False, "acme:AsksFromNow": True}
    assert "every 1 s (off by default)" in task_table.stdout

    assert done.returncode == 0, done.stderr
    assert acme("worker", "--worker-size", "small", "--burst").returncode == 0
    assert acme.journal() == ["lhcb cern 3"]


def test_an_installation_without_tasks_has_nothing_to_list(bare: CommandLine, server: EmbeddedServer) -> None:
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    assert bare("setup").returncode == 0
    assert bare("schedule", "list").stderr.startswith("no periodic task is installed here")
    assert bare.json("schedule", "list") == []


def test_a_task_without_a_vo_is_listed_with_that_reason(acme: CommandLine) -> None:
    listed = acme("schedule", "list")
    assert listed.stderr == ""
    (row,) = [line for line in listed.stdout.splitlines() if PILOTS in line]
    assert "no VO is known: give --vo NAME, or `vos:`" in row
    any_vo, run, odd = acme.each(
        [
            ("schedule", "list", "--vo", "lhcb"),
            ("schedule", "run", PILOTS, "--vo", "lhcb"),
            ("schedule", "run", PILOTS, "--vo", "lh\x1bcb"),
        ]
    )
    assert any_vo.stderr == ""  # none is known, so any may be meant
    assert run.returncode == 0
    assert run.stderr.startswith("warning: 'lhcb' was not checked, this mesh knows no VO; ")
    assert odd.returncode == 2
    assert "'--vo': the name 'lh\\x1bcb' has a character that cannot be printed" in odd.stderr


UNKNOWN = [
    (["--vo", "lhbc"], "acme:SubmitPilots does not run for the VO 'lhbc'; did you mean lhcb?"),
    (["--vo", "cms"], "acme:SubmitPilots does not run for the VO 'cms'; there is lhcb, atlas"),
    (["--vo", "lhcb"], "has entries; say which with --entry: SubmitPilotsCERN, SubmitPilotsRAL"),
    (["--vo", "lhcb", "--entry", "SubmitPilotsRALL"], "no entry 'SubmitPilotsRALL'; did you mean SubmitPilotsRAL"),
    (["--vo", "atlas", "--entry", "SubmitPilotsCERN"], "has no entry 'SubmitPilotsCERN'; there is All"),
]


def test_an_unknown_vo_or_entry_is_refused_with_the_near_names(acme: CommandLine) -> None:
    configure(acme, TWO_VOS)
    runs = [("schedule", "run", PILOTS, *options) for options, _ in UNKNOWN]
    *found, listed = acme.each([*runs, ("schedule", "list", "--vo", "lhbc")])
    assert (listed.returncode, listed.stdout) == (2, "")
    assert "no VO 'lhbc' is known here; did you mean lhcb?" in listed.stderr
    for (_, why), done in zip(UNKNOWN, found, strict=True):
        assert (done.returncode, done.stdout) == (2, "")
        assert why in " ".join(done.stderr.split())


async def test_vos_that_only_the_scheduler_was_told_are_known_by_their_schedules(
    acme: CommandLine, on_the_server: OnTheServer
) -> None:
    assert acme("schedule", "run", PILOTS, "--vo", "new").returncode == 0, "no VO is known"
    scheduler = LoggedProcess(acme, "scheduler", "--vo", "lhcb")
    await scheduler.logs(f"{PILOTS}@lhcb: every 3600 s")
    await scheduler.stop()
    runs = [("--vo", "lhbc"), ("--vo", "lhcb", "--entry", "A")]
    unknown, done = acme.each(("schedule", "run", PILOTS, *options) for options in runs)
    assert "did you mean lhcb?" in unknown.stderr
    assert "has no entry 'A'; there is none" in done.stderr
    # `config set` refuses it where the task is installed.
    unfit = json.dumps({"tasks": {PILOTS: {"entries": {"A": {"args": {"count": "x"}}}}}})
    await ConfigurationBucket(on_the_server.connection, on_the_server.names).write(unfit)
    done = acme("schedule", "run", PILOTS, "--vo", "lhcb", "--entry", "A")
    assert done.returncode == 2
    assert "error: acme:SubmitPilots: tasks.acme:SubmitPilots.entries.A.args: Expected `int`, got `str`" in done.stderr
