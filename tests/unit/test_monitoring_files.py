"""The dashboard and the alert rules in the folder `nats`: their form, and what they name."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path

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
CASES = {
    # What is measured, one value a minute, and the alerts that it raises after 20 minutes.
    "DiracxTasksNoLeader": {"diracx_tasks_scheduler_leader": "0+0x30"},
    "DiracxTasksNoWorker": {
        "diracx_tasks_scheduler_leader": "1+0x30",
        f"diracx_tasks_queue_waiting{QUEUE}": "5+0x30",
        'diracx_tasks_worker_up{diracx_tasks_size="large"}': "1+0x30",
    },
    "DiracxTasksWait": {
        "diracx_tasks_scheduler_leader": "1+0x30",
        f"diracx_tasks_queue_oldest_seconds{QUEUE}": "4000+60x30",
    },
    "DiracxTasksDeadLetters": {"diracx_tasks_scheduler_leader": "1+0x30", "diracx_tasks_dead_letters": "1+1x30"},
    "DiracxTasksStreamNearlyFull": {
        "diracx_tasks_scheduler_leader": "1+0x30",
        'jetstream_stream_total_bytes{stream_name="DIRACX_TASKS"}': "90+0x30",
        'jetstream_stream_limit_bytes{stream_name="DIRACX_TASKS"}': "100+0x30",
        'jetstream_stream_total_bytes{stream_name="DIRACX_LATER"}': "90+0x30",
        'jetstream_stream_limit_bytes{stream_name="DIRACX_LATER"}': "-1+0x30",
    },
    "": {
        "diracx_tasks_scheduler_leader": "1+0x30",
        f"diracx_tasks_queue_waiting{QUEUE}": "5+0x30",
        'diracx_tasks_worker_up{diracx_tasks_size="small"}': "1+0x30",
        "diracx_tasks_dead_letters": "7+0x30",
    },
}


@needs_promtool
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_is_raised_by_what_it_tells_of(alert: str, tmp_path: Path) -> None:
    promtool = find_promtool()
    assert promtool is not None
    series = [{"series": name, "values": values} for name, values in CASES[alert].items()]
    others = [rule["alert"] for rule in rules() if rule["alert"] != alert]
    expected = [{"eval_time": "20m", "alertname": other, "exp_alerts": []} for other in others]
    case = {"interval": "1m", "input_series": series, "alert_rule_test": expected}
    if alert:
        firing = {"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})', "eval_time": "20m"}
        case["promql_expr_test"] = [firing | {"exp_samples": [{"labels": "{}", "value": 1}]}]
    written = tmp_path / "case.yaml"
    written.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run([promtool, "test", "rules", written], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
