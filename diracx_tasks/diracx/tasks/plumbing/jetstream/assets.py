"""The streams, consumers and buckets of one mesh, defined once.

`topology` creates and compares them; the JSON in the folder `nats/` is written from here.

Two kinds of settings stand side by side. Those in `config` are what the system rests on: they are compared at every
start. Those in `initial` are how much an installation wants to keep and how safely: they are used when the asset is
created, and belong to the operator from then on. Metadata stands in both: what an asset is for, and the thresholds
under `io.nats.monitor.*` by which `nats server check stream` and `nats server check consumer` judge it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.wire.names import Namespace

NANOSECONDS: Final = 1_000_000_000
MEBIBYTE: Final = 1 << 20

MONITOR: Final = "io.nats.monitor"
"""Metadata under this prefix are thresholds of `nats server check`."""

_MOST_WAITING: Final = {Priority.REALTIME: 1_000, Priority.NORMAL: 10_000, Priority.BACKGROUND: 100_000}

DUE_TTL: Final = "720h"
"""How long what fell due waits for room in a full work queue; it is removed when its task is settled."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One stream, consumer or bucket."""

    kind: Literal["stream", "consumer", "bucket"]
    name: str
    """As operators know it; a bucket's stream is `KV_<name>`."""
    stream: str
    """The stream that holds it, or that it is."""
    config: Mapping[str, Any]
    """What the system rests on, in the server's own JSON."""
    initial: Mapping[str, Any] = field(default_factory=dict)
    """What the operator may change, with the value it is created with."""

    @property
    def definition(self) -> dict[str, Any]:
        """The whole configuration with which the asset is created."""
        metadata = {**self.config.get("metadata", {}), **self.initial.get("metadata", {})}
        return {**self.config, **self.initial, "metadata": metadata}

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def assets(namespace: Namespace, replicas: int = 1) -> list[Asset]:
    """All assets of a mesh, in the order in which they can be created.

    Args:
        namespace: Whose.
        replicas: Copies of every stream, 1 to 5; consumers follow their stream.
    """
    streams = [_later(namespace), _tasks(namespace), _dead_letters(namespace)]
    buckets = [
        _bucket(namespace.locks_bucket, "Who holds which lock", expiring=True),
        _bucket(namespace.attempts_bucket, "Failures and retries by sequence of the task stream"),
        _bucket(namespace.results_bucket, "Results that somebody asked to keep", expiring=True, direct=True),
        _bucket(namespace.groups_bucket, "Groups of tasks with a callback"),
        _bucket(namespace.config_bucket, "Overrides that workers and schedulers follow", direct=True),
    ]
    consumers = [_consumer(namespace, priority, size) for size in Size for priority in Priority]
    return [_replicated(asset, replicas) for asset in (*streams, *buckets)] + consumers


def _replicated(asset: Asset, replicas: int) -> Asset:
    metadata = {**asset.initial.get("metadata", {}), **_replicas_watched(replicas)}
    initial = {**asset.initial, "num_replicas": replicas, "metadata": metadata}
    return Asset(asset.kind, asset.name, asset.stream, asset.config, initial)


def with_replicas(asset: Asset, replicas: int) -> Asset:
    """The asset with its number of copies compared and updated like the rest; a consumer follows its stream."""
    if asset.kind == "consumer":
        return asset
    metadata = {**asset.config["metadata"], **_replicas_watched(replicas)}
    return replace(asset, config={**asset.config, "num_replicas": replicas, "metadata": metadata})


def _replicas_watched(replicas: int) -> dict[str, str]:
    # `nats server check` refuses to count the peers of a stream that has no copies.
    return {f"{MONITOR}.peer-expect": str(replicas)} if replicas > 1 else {}


def _tasks(namespace: Namespace) -> Asset:
    name = namespace.tasks_stream
    config = {
        "name": name,
        "description": "Tasks to run now. A message is one task; it is removed when the task is settled",
        "metadata": {"diracx.tasks": "tasks"},
        "subjects": [f"{namespace.name}.tasks.*.*"],
        "retention": "workqueue",
        "storage": "file",
        # Full: the publisher is told, and nothing that waits is dropped.
        "discard": "new",
        "allow_direct": True,
        "allow_atomic": True,
        # A message TTL would silently delete what waits for its retry.
        "allow_msg_ttl": False,
        "duplicate_window": 120 * NANOSECONDS,
        "sources": [
            {
                "name": namespace.later_stream,
                "subject_transforms": [
                    {
                        "src": f"{namespace.name}.due.*.*",
                        "dest": f"{namespace.name}.tasks.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
                    }
                ],
            }
        ],
    }
    # The source is how tasks for later arrive.
    checks = _monitored({"min-sources": 1, "lag-critical": 10_000})
    return Asset("stream", name, name, config, {"max_bytes": 256 * MEBIBYTE, "metadata": checks})


def _later(namespace: Namespace) -> Asset:
    name = namespace.later_stream
    config = {
        "name": name,
        "description": "Tasks to run later. The server holds them (ADR-51) and hands over what falls due",
        "metadata": {"diracx.tasks": "later"},
        "subjects": [
            f"{namespace.name}.delayed.*",
            f"{namespace.name}.periodic.>",
            f"{namespace.name}.state.>",
            f"{namespace.name}.due.*.*",
        ],
        "retention": "limits",
        "storage": "file",
        # The server refuses schedules together with discard new; without a limit nothing is discarded.
        "discard": "old",
        "max_bytes": -1,
        "max_msgs": -1,
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
        "allow_rollup_hdrs": True,
    }
    return Asset("stream", name, name, config, {"metadata": _monitored()})


def _dead_letters(namespace: Namespace) -> Asset:
    name = namespace.dead_letters_stream
    advisory = "$JS.EVENT.ADVISORY.CONSUMER"
    config = {
        "name": name,
        "description": "Tasks that will not run again, with payload and story, and the server's advisories of them",
        "metadata": {"diracx.tasks": "dead letters"},
        "subjects": [
            f"{namespace.name}.dlq.>",
            f"{advisory}.MAX_DELIVERIES.{namespace.tasks_stream}.*",
            f"{advisory}.MSG_TERMINATED.{namespace.tasks_stream}.*",
        ],
        "retention": "limits",
        "storage": "file",
        "allow_direct": True,
    }
    # Refuse rather than forget: a task whose dead letter finds no room is not settled.
    initial = {
        "discard": "new",
        "max_bytes": 256 * MEBIBYTE,
        "max_age": 0,
        # Each dead letter has a subject of its own, so this counts them.
        "metadata": _monitored({"subjects-warn": 1, "subjects-critical": 1_000}),
    }
    return Asset("stream", name, name, config, initial)


def _bucket(name: str, description: str, *, expiring: bool = False, direct: bool = False) -> Asset:
    stream = f"KV_{name}"
    config = {
        "name": stream,
        "description": description,
        "metadata": {"diracx.tasks": "bucket"},
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": True,
        # Keys are removed by deleting their own revision, which leaves no marker behind.
        "deny_delete": False,
        "allow_msg_ttl": expiring,
        # A direct read may be answered by a replica that lags; where reads decide, the leader answers.
        "allow_direct": direct,
    }
    return Asset("bucket", name, stream, config, {"metadata": _monitored()})


def _consumer(namespace: Namespace, priority: Priority, size: Size) -> Asset:
    name = namespace.consumer(priority, size)
    config = {
        "name": name,
        "durable_name": name,
        "description": f"{size.capitalize()} tasks of {priority} priority",
        "metadata": {"diracx.tasks": "queue"},
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "filter_subject": namespace.task_subject(priority, size),
        # A task that waits for a retry keeps its slot, so any limit would stop the queue behind enough of them.
        "max_ack_pending": -1,
        "max_deliver": -1,
        # It would add itself to the delay of a nak.
        "backoff": [],
    }
    initial = {
        "ack_wait": 30 * NANOSECONDS,
        "max_waiting": 4096,
        "metadata": _monitored({"unprocessed-critical": _MOST_WAITING[priority], "outstanding-ack-critical": 10_000}),
    }
    return Asset("consumer", name, namespace.tasks_stream, config, initial)


def _monitored(thresholds: Mapping[str, int] | None = None) -> dict[str, str]:
    return {f"{MONITOR}.enabled": "true"} | {f"{MONITOR}.{name}": str(at) for name, at in (thresholds or {}).items()}
