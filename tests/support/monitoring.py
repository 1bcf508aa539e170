"""The files for Grafana and Prometheus in the folder `nats`, and the metrics that they name."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import yaml

from support.paths import NATS_FOLDER

ALERTS = NATS_FOLDER / "alerts.yaml"
DASHBOARD = NATS_FOLDER / "grafana" / "diracx-tasks.json"

OF_THE_EXPORTER = frozenset(
    f"jetstream_{name}"
    for name in (
        *("server_jetstream_disabled", "server_total_streams", "server_total_consumers", "server_total_messages"),
        *("server_total_message_bytes", "server_max_memory", "server_max_storage"),
        *("stream_total_messages", "stream_total_bytes", "stream_limit_messages", "stream_limit_bytes"),
        *("stream_first_seq", "stream_last_seq", "stream_consumer_count", "stream_subject_count"),
        *("consumer_delivered_consumer_seq", "consumer_delivered_stream_seq", "consumer_num_ack_pending"),
        *("consumer_num_redelivered", "consumer_num_waiting", "consumer_num_pending"),
        *("consumer_ack_floor_stream_seq", "consumer_ack_floor_consumer_seq"),
    )
)
"""The metrics of prometheus-nats-exporter with `-jsz=all`, by its collector of 2025. It cannot be run in the tests."""
LABELS_OF_THE_EXPORTER = frozenset(
    {"server_name", "stream_name", "consumer_name", "is_stream_leader", "is_consumer_leader"}
)
LABELS_OF_PROMETHEUS = frozenset({"le", "job", "instance"})

_NAME = re.compile(r"\b(?:diracx_tasks|messaging|jetstream)_[a-z_]+\b")
_SELECTED = re.compile(r"\{([^{}]*)\}")
_QUOTED = re.compile(r'"[^"]*"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^()]*)\)")


def rules() -> list[dict[str, Any]]:
    """The alert rules, in order."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, without its rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """All expressions of both files, with values for the variables of Grafana."""
    found = [rule["expr"] for rule in rules()]
    found += [target["expr"] for panel in panels() for target in panel["targets"]]
    values = {"$__rate_interval": "5m", "$job": ".*", "$streams": "DIRACX_.*"}
    return [re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], each) for each in found]


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics in an expression."""
    return set(_NAME.findall(_QUOTED.sub("", _GROUPED.sub("", _SELECTED.sub("", expression)))))


def labels_in(expression: str) -> set[str]:
    """The names of the labels by which an expression selects and groups."""
    found = {part for group in _GROUPED.findall(expression) for part in re.findall(r"\w+", group)}
    return found | {
        name for selected in _SELECTED.findall(expression) for name in re.findall(r"(\w+)\s*[=!]", selected)
    }


def find_promtool() -> str | None:
    """The path of `promtool`, a part of Prometheus; None: it is not on the PATH."""
    return shutil.which("promtool")
