"""An extension whose tasks are made with pydantic: submitted, called and scheduled for two VOs by real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.publish import publish
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points

PILOTS = json.dumps([[{"site": "CERN"}, {"site": "RAL", "cores": 8}]])
SUBMITTED = "submit short [('Pilot', 'CERN', 1), ('Pilot', 'RAL', 8)]"


@pytest.fixture
def pilots(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    """The command line with the distribution `pydantic-tasks` installed, and the shared server."""
    points = task_points("pilots", "pydantic_tasks.tasks", ("SubmitPilots", "ReportPilots", "KillPilot"))
    install_extension(bare.folder / "site", "pydantic_tasks", points)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return bare


async def test_tasks_that_are_models_run_for_two_vos_and_from_submissions(pilots: CommandLine, tmp_path: Path) -> None:
    assert {task["name"] for task in pilots.json("tasks")} == {
        f"pilots:{name}" for name in ("SubmitPilots", "ReportPilots", "KillPilot")
    }
    pilots.start("worker", "--worker-size", "small")
    pilots.start("scheduler", "--vo", "lhcb", "--vo", "my vo.org")
    for vo in ("lhcb", "my vo.org"):
        await pilots.wait_for_line(f"report {vo} Pilot(site='CERN', cores=2)", count=2)
    for arguments in (
        ("--args", PILOTS),
        ("--kwargs", '{"pilots": [{"site": "CERN"}, {"site": "RAL", "cores": 8}], "queueName": "short"}'),
    ):
        done = pilots("submit", "pilots:SubmitPilots", *arguments)
        assert done.returncode == 0, done.stderr
    await pilots.wait_for_line(SUBMITTED, count=2)
    assert pilots("submit", "pilots:KillPilot", "--args", '[{"site": "RAL"}]').returncode == 0
    await pilots.wait_for_line("kill Pilot(site='RAL', cores=1)")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--args", '[[{"site": 7}]]'), "Input should be a valid string - at `$.pilots[0].site`"),
        (("--args", '[[{"site": "RAL", "cores": 0}]]'), "greater than 0 - at `$.pilots[0].cores`"),
        (("--kwargs", '{"pilotes": []}'), "SubmitPilots has no field 'pilotes'; did you mean pilots?"),
        ((), "Field required - at `$.pilots`"),
    ],
)
@pytest.mark.parametrize("command", ["call", "submit"])
def test_arguments_that_do_not_fit_a_model_are_bad_usage(
    pilots: CommandLine, command: str, arguments: tuple[str, ...], why: str
) -> None:
    done = pilots(command, "pilots:SubmitPilots", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert why in line


def test_call_runs_a_model(pilots: CommandLine) -> None:
    done = pilots("call", "pilots:SubmitPilots", "--args", PILOTS)
    assert (done.returncode, done.stdout) == (0, "Result: short\n"), done.stderr
    assert pilots.journal() == [SUBMITTED]


async def test_a_message_that_a_model_refuses_is_a_dead_letter_and_a_plain_one_from_another_language_runs(
    pilots: CommandLine, on_the_server: OnTheServer
) -> None:
    await on_the_server.set_up()
    subject = f"{on_the_server.names.name}.tasks.normal.small"
    for body in (b'{"pilots":[],"queueName":"long"}', b'{"pilots":[],"newer":1}', b'{"pilots":[{"site":"x"},{}]}'):
        await publish(on_the_server.connection, subject, body, {"Task-Name": "pilots:SubmitPilots"})
    assert pilots("worker", "--worker-size", "small", "--burst").returncode == 0
    assert pilots.journal() == ["submit long []"]
    assert {letter["reason"] for letter in pilots.json("dlq", "list")} == {
        "malformed: Extra inputs are not permitted - at `$.newer`",
        "malformed: Field required - at `$.pilots[1].site`",
    }
