"""The dashboard and the alert rules in the folder `nats`: their form, and what they name."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner

from diracx.tasks.cli.app import app
from support.monitoring import (
    ALERTS,
    DASHBOARD,
    OF_THE_EXPORTER,
    expressions,
    find_promtool,
    metrics_in,
    panels,
    rules,
)
from support.pages import anchors
from support.paths import TOP

needs_promtool = pytest.mark.skipif(
    find_promtool() is None, reason="NOT TRIED: promtool is not on the PATH (Debian: apt install prometheus)"
)


def test_each_rule_has_a_summary_a_command_that_mends_and_a_page() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        notes = rule["annotations"]
        assert {"summary", "command", "page"} <= set(notes) <= {"summary", "command", "page", "description"}, rule
        page, _, anchor = notes["page"].partition("#")
        assert (TOP / page).is_file(), notes["page"]
        assert not anchor or anchor in anchors(TOP / page), notes["page"]


@pytest.mark.parametrize(
    "command", [c for rule in rules() if (c := rule["annotations"]["command"]).startswith("diracx-task-run ")]
)
def test_each_command_is_one_that_there_is(command: str) -> None:
    words = shlex.split(re.sub(r"\{\{.*?\}\}", "small", command))[1:]
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    shown = CliRunner().invoke(app, [*named, "--help"])
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.output for word in words if word.startswith("--")), command


def test_no_command_sets_a_limit_that_may_be_lower_than_the_present_one() -> None:
    assert not [command for rule in rules() if "--max-" in (command := rule["annotations"]["command"])]


def test_metrics_of_the_exporter_are_those_that_it_has() -> None:
    named = set().union(*map(metrics_in, expressions()))
    assert {name for name in named if name.startswith("jetstream_")} <= OF_THE_EXPORTER
    assert len(named) > 20


def test_the_panels_have_names_units_and_places_of_their_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert len({panel["title"] for panel in panels()}) > 20
    for panel in panels():
        assert panel["title"], panel
        assert panel["fieldConfig"]["defaults"]["unit"], panel
        assert panel["datasource"]["uid"] == "${datasource}", "an operator's data source has any name"
        assert all(target["legendFormat"] or panel["type"] == "stat" for target in panel["targets"])
    for one, other in itertools.combinations((panel["gridPos"] for panel in dashboard["panels"]), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@needs_promtool
def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    promtool = find_promtool()
    assert promtool is not None
    named = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    written = tmp_path / "all.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": named}]}))
    for path in (ALERTS, written):
        done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


QUEUE = '{diracx_tasks_priority="normal", diracx_tasks_size="small"}'
CONSUMER = '{stream_name="DIRACX_TASKS", consumer_name="normal-small", is_consumer_leader="true"}'
REFUSED = '{messaging_destination_name="diracx.tasks.normal.small", error_type="ApiError"}'
DEAD = '{diracx_tasks_name="a:B", diracx_tasks_outcome="dead", error_type="ValueError"}'
WELL = {
    "diracx_tasks_scheduler_leader": "1+0x300",
    f"diracx_tasks_queue_waiting{QUEUE}": "5+0x300",
    f"diracx_tasks_queue_parked{QUEUE}": "2+0x300",
    'diracx_tasks_worker_up{diracx_tasks_size="small"}': "1+0x300",
    "diracx_tasks_dead_letters": "7+0x300",
}
OTHER_QUEUES = {
    f'jetstream_consumer_num_pending{{stream_name="DIRACX_TASKS", consumer_name="other-{number}"}}': "0+0x60"
    for number in range(8)
}
NOT_TAKEN = {
    **OTHER_QUEUES,
    f"jetstream_consumer_num_pending{CONSUMER}": "1000+0x60",
    f"jetstream_consumer_num_ack_pending{CONSUMER}": "1+0x60",
    f"jetstream_consumer_delivered_consumer_seq{CONSUMER}": "77+0x60",
}


def executions(outcome: str, error: str = "", instance: str = "w") -> str:
    """The series of what has run of one task in a worker."""
    labels = {"diracx_tasks_name": "a:B", "diracx_tasks_outcome": outcome, "error_type": error, "instance": instance}
    selected = ", ".join(f'{name}="{value}"' for name, value in labels.items() if value)
    return f"messaging_process_duration_seconds_count{{{selected}}}"


class Case(NamedTuple):
    """What is measured, one value a minute, and which alert it raises."""

    alert: str
    """Empty: none."""
    measured: Mapping[str, str]
    """Added to `WELL`."""
    minutes: int = 20
    """After which the alerts are looked at."""


CASES = {
    "nobody leads": Case("DiracxTasksNoLeader", {"diracx_tasks_scheduler_leader": "0+0x30"}),
    "a scheduler leads and cannot read the queues": Case(
        "DiracxTasksNotMeasured",
        {f"diracx_tasks_queue_{name}{QUEUE}": "5+0x9 stale" for name in ("waiting", "parked")},
    ),
    "tasks wait for a size without a worker": Case(
        "DiracxTasksNoWorker",
        {
            'diracx_tasks_queue_waiting{diracx_tasks_priority="normal", diracx_tasks_size="large"}': "5+0x30",
            'diracx_tasks_queue_parked{diracx_tasks_priority="normal", diracx_tasks_size="large"}': "0+0x30",
        },
    ),
    "the only worker of a size was killed with three tasks": Case(
        "DiracxTasksNoWorker",
        {
            'diracx_tasks_queue_waiting{diracx_tasks_priority="normal", diracx_tasks_size="large"}': "0+0x30",
            'diracx_tasks_queue_parked{diracx_tasks_priority="normal", diracx_tasks_size="large"}': "3+0x30",
        },
    ),
    "a task is old": Case("DiracxTasksWait", {f"diracx_tasks_queue_oldest_seconds{QUEUE}": "4000+60x30"}),
    "dead letters": Case("DiracxTasksDeadLetters", {"diracx_tasks_dead_letters": "1+1x30"}),
    "dead letters that were fewer than a purge removed": Case(
        "DiracxTasksDeadLetters",
        {
            "diracx_tasks_dead_letters": "200+0x30 10+1x30",
            f"messaging_client_consumed_messages_total{DEAD}": "7+0x30 8+1x30",
        },
        minutes=50,
    ),
    "the first dead letter of a worker, after a purge": Case(
        "DiracxTasksDeadLetters",
        {
            "diracx_tasks_dead_letters": "200+0x30 1+0x30",
            f"messaging_client_consumed_messages_total{DEAD}": "_x30 1+0x30",
        },
        minutes=50,
    ),
    "dead letters of long ago": Case("", {f"messaging_client_consumed_messages_total{DEAD}": "7+0x60"}, minutes=50),
    "a stream is nearly full": Case(
        "DiracxTasksStreamNearlyFull",
        {
            'jetstream_stream_total_bytes{stream_name="DIRACX_TASKS"}': "90+0x30",
            'jetstream_stream_limit_bytes{stream_name="DIRACX_TASKS"}': "100+0x30",
            'jetstream_stream_total_bytes{stream_name="DIRACX_LATER"}': "90+0x30",
            'jetstream_stream_limit_bytes{stream_name="DIRACX_LATER"}': "-1+0x30",
        },
    ),
    "the history is full, which removes its oldest": Case(
        "",
        {
            'jetstream_stream_total_bytes{stream_name="DIRACX_HISTORY"}': "100+0x30",
            'jetstream_stream_limit_bytes{stream_name="DIRACX_HISTORY"}': "100+0x30",
        },
    ),
    "nobody pulls, and a killed worker had a task": Case("DiracxTasksNobodyPulls", NOT_TAKEN, minutes=50),
    "all slots have tasks that take long": Case(
        "", {**NOT_TAKEN, f"diracx_tasks_queue_in_flight{QUEUE}": "1+0x60"}, minutes=50
    ),
    "one queue of nine is missing": Case("DiracxTasksQueueMissing", OTHER_QUEUES),
    "all nine queues are missing": Case(
        "DiracxTasksQueueMissing", {'jetstream_server_total_streams{server_name="a"}': "3+0x30"}
    ),
    "each of some workers lost its first lock": Case(
        "DiracxTasksLocksLost",
        {
            f'diracx_tasks_lock_lost_total{{diracx_tasks_lock_kind="mutex", instance="w{number}"}}': "_x7 1+0x30"
            for number in range(20)
        },
    ),
    "a worker lost another lock": Case(
        "DiracxTasksLocksLost", {'diracx_tasks_lock_lost_total{diracx_tasks_lock_kind="mutex"}': "5+0x15 6+0x30"}
    ),
    "the first submission was refused": Case(
        "DiracxTasksRefused", {f"messaging_client_sent_messages_total{REFUSED}": "_x16 1+0x30"}
    ),
    "events of long ago": Case(
        "",
        {
            'diracx_tasks_lock_lost_total{diracx_tasks_lock_kind="mutex"}': "5+0x60",
            f"messaging_client_sent_messages_total{REFUSED}": "5+0x60",
        },
    ),
    "an hourly task fails each time": Case(
        "DiracxTasksFail", {executions("discarded", "ValueError"): "1+0x59 2+0x59 3+0x59 4+0x59"}, minutes=150
    ),
    "an hourly task fails each time, in another worker": Case(
        "DiracxTasksFail",
        {executions("dead", "ValueError", f"w{hour}"): f"_x{hour * 60 + 1} 1+0x250" for hour in range(3)},
        minutes=150,
    ),
    "a task fails, and waits for its lock more often": Case(
        "DiracxTasksFail",
        {executions("dead", "ValueError"): "1+1x200", executions("lock_busy"): "12+12x200"},
        minutes=60,
    ),
    "a task that runs often begins to fail": Case(
        "DiracxTasksFail",
        {executions("succeeded"): "0+10x120 1200+0x60", executions("retry", "ValueError"): "0+0x120 0+10x60"},
        minutes=150,
    ),
    "a task failed once": Case("", {executions("dead", "ValueError"): "_x5 1+0x60"}, minutes=50),
    "a task fails seldom": Case(
        "", {executions("succeeded"): "0+2x200", executions("retry", "ValueError"): "0+1x200"}, minutes=190
    ),
    "all is well": Case("", {}),
}


def test_only_executions_are_in_the_durations_of_the_dashboard() -> None:
    """A delivery that waits for a lock ends in milliseconds."""
    shown = [target["expr"] for panel in panels() if "uration" in panel["title"] for target in panel["targets"]]
    selected = [each for expr in shown for each in re.findall(r"messaging_process_duration_seconds_\w+\{.*?\}", expr)]
    assert len(selected) == 3
    assert all('diracx_tasks_outcome=~"succeeded|retry|dead|discarded"' in each for each in selected)


@needs_promtool
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_alert_is_raised_by_what_it_tells_of(case: Case, tmp_path: Path) -> None:
    promtool = find_promtool()
    assert promtool is not None
    series = [{"series": name, "values": values} for name, values in (WELL | dict(case.measured)).items()]
    others = [rule["alert"] for rule in rules() if rule["alert"] != case.alert]
    at = f"{case.minutes}m"
    expected = [{"eval_time": at, "alertname": other, "exp_alerts": []} for other in others]
    test: dict[str, Any] = {"interval": "1m", "input_series": series, "alert_rule_test": expected}
    if case.alert:
        firing = {"expr": f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})', "eval_time": at}
        test["promql_expr_test"] = [firing | {"exp_samples": [{"labels": "{}", "value": 1}]}]
    written = tmp_path / "case.yaml"
    written.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", written], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
