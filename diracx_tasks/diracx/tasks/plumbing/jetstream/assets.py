"""The streams, consumers and buckets of one mesh, defined once.

`topology` creates and compares them, and the JSON in the folder `nats/` is generated from here. An asset has two kinds
of settings:

* `config` is the part that the system depends on. It is compared at every start.
* `initial` is the part that an installation chooses: how much to keep, and how safely. It is used when the asset is
  created, and belongs to the operator from then on.

Both hold metadata: in `config` the purpose of the asset, in `initial` the thresholds under `io.nats.monitor.*` that
`nats server check stream` and `nats server check consumer` apply.
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
"""The prefix of the metadata that hold thresholds of `nats server check`."""

START: Final = "opt_start_seq"
"""Where a source begins that does not know how far it has come."""

CONFIGURATION_REVISIONS: Final = 20
"""How many revisions of the configuration are kept, at the least."""

_QUEUES: Final = tuple((priority, size) for size in Size for priority in Priority)

_MAX_WAITING: Final = {Priority.REALTIME: 1_000, Priority.NORMAL: 10_000, Priority.BACKGROUND: 100_000}


@dataclass(frozen=True, slots=True)
class Asset:
    """One stream, consumer or bucket."""

    kind: Literal["stream", "consumer", "bucket"]
    name: str
    """The name that operators use; the stream of a bucket is `KV_<name>`."""
    stream: str
    """The stream that holds it; of a stream, its own name."""
    config: Mapping[str, Any]
    """The settings that the system depends on, in the server's own JSON."""
    initial: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the operator may change, with the values at creation."""
    optional: bool = False
    """Whether the mesh works without it, as one does that an earlier version has set up."""

    def is_one_of(self, *names: str) -> bool:
        """Whether it is the stream or bucket of one of these names."""
        return self.kind != "consumer" and self.name in names

    @property
    def definition(self) -> dict[str, Any]:
        """The whole configuration at creation."""
        metadata = merged(self.config.get("metadata", {}), self.initial.get("metadata", {}))
        return {**self.config, **self.initial, "metadata": metadata}

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def assets(namespace: Namespace, replicas: int = 1) -> list[Asset]:
    """All assets of a mesh, in the order in which they can be created.

    Args:
        namespace: The names of the mesh.
        replicas: The number of copies of every stream, 1 to 5; consumers follow their stream.
    """
    streams = [_later(namespace), _tasks(namespace), _dead_letters(namespace), _history(namespace)]
    buckets = [
        _bucket(namespace.locks_bucket, "Who holds which lock", expiring=True),
        _bucket(namespace.attempts_bucket, "Failures and retries by sequence of the task stream"),
        _results(namespace),
        _bucket(
            namespace.config_bucket,
            "Overrides that workers and schedulers follow",
            direct=True,
            history=CONFIGURATION_REVISIONS,
        ),
    ]
    consumers = [_consumer(namespace, priority, size) for priority, size in _QUEUES]
    return [_replicated(asset, replicas) for asset in (*streams, *buckets)] + consumers


def _replicated(asset: Asset, replicas: int) -> Asset:
    metadata = {**asset.initial.get("metadata", {}), **_replicas_watched(replicas)}
    initial = {**asset.initial, "num_replicas": replicas, "metadata": metadata}
    return replace(asset, initial=initial)


def with_replicas(asset: Asset, replicas: int) -> Asset:
    """The asset with its number of copies in `config`, so that it is compared and updated; a consumer is unchanged."""
    if asset.kind == "consumer":
        return asset
    watched = _replicas_watched(replicas) or dict.fromkeys(_replicas_watched(2))
    metadata = {**asset.config["metadata"], **watched}
    return replace(asset, config={**asset.config, "num_replicas": replicas, "metadata": metadata})


def merged(has: Mapping[str, Any], needed: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with what is needed; None: the name is removed."""
    return {name: value for name, value in {**has, **needed}.items() if value is not None}


def _replicas_watched(replicas: int) -> dict[str, str]:
    # `nats server check` refuses to count the peers of a stream without copies. A follower that is full stops copying
    # and tells no client.
    watched = {"peer-expect": str(replicas), "peer-lag-critical": "1000", "peer-seen-critical": "10s"}
    return {f"{MONITOR}.{name}": at for name, at in watched.items()} if replicas > 1 else {}


def _tasks(namespace: Namespace) -> Asset:
    name = namespace.tasks_stream
    config = {
        "name": name,
        "description": "Tasks to run now. A message is one task; it is removed when the task is settled",
        "metadata": {"diracx.tasks": "tasks"},
        # These nine and no other: on any other subject a task would be acknowledged, and no consumer would see it.
        "subjects": [namespace.task_subject(*queue) for queue in _QUEUES],
        "retention": "workqueue",
        "storage": "file",
        # A full stream refuses the publisher and drops no waiting task.
        "discard": "new",
        "allow_direct": True,
        "allow_atomic": True,
        # A message TTL would silently delete a task that waits for its retry.
        "allow_msg_ttl": False,
        "duplicate_window": 120 * NANOSECONDS,
        "sources": [
            {
                "name": namespace.later_stream,
                # A leader that does not know how far the queue had come begins here, with what is not settled. Without
                # it, the server begins at the time of the last message in the queue, and loses what fell due before.
                START: 1,
                "subject_transforms": [
                    {
                        "src": f"{namespace.name}.due.*.*",
                        "dest": f"{namespace.name}.tasks.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
                    }
                ],
            }
        ],
    }
    # Delayed and periodic tasks arrive through the source.
    checks = _monitored({"min-sources": 1, "lag-critical": 10_000})
    return Asset("stream", name, name, config, {"max_bytes": 256 * MEBIBYTE, "metadata": checks})


def _later(namespace: Namespace) -> Asset:
    name = namespace.later_stream
    config = {
        "name": name,
        "description": "Tasks to run later, handed over when they fall due (ADR-51); groups; cancellations",
        "metadata": {"diracx.tasks": "later"},
        "subjects": [
            f"{namespace.name}.delayed.*",
            f"{namespace.name}.periodic.>",
            f"{namespace.name}.state.>",
            f"{namespace.name}.group.>",
            f"{namespace.name}.cancelled.*.*",
            # The work queue sources them, whatever its own subjects are.
            *(namespace.due_subject(*queue) for queue in _QUEUES),
        ],
        "retention": "limits",
        "storage": "file",
        # The server refuses schedules together with discard new. Without a limit nothing is discarded.
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
        "description": "Tasks that will not run again, with payload and errors, and the server's advisories of them",
        "metadata": {"diracx.tasks": "dead letters"},
        "subjects": [
            f"{namespace.name}.dlq.*.*.*",
            f"{advisory}.MAX_DELIVERIES.{namespace.tasks_stream}.*",
            f"{advisory}.MSG_TERMINATED.{namespace.tasks_stream}.*",
        ],
        "retention": "limits",
        "storage": "file",
        "allow_direct": True,
    }
    # A full stream refuses a dead letter rather than drop an old one; the task stays unsettled.
    initial = {
        "discard": "new",
        "max_bytes": 256 * MEBIBYTE,
        "max_age": 0,
        # Each dead letter has a subject of its own, so the number of subjects is that of dead letters.
        "metadata": _monitored({"subjects-warn": 1, "subjects-critical": 1_000}),
    }
    return Asset("stream", name, name, config, initial)


def _history(namespace: Namespace) -> Asset:
    name = namespace.history_stream
    config = {
        "name": name,
        "description": "What stood in the queues, and what became of their tasks, minute by minute",
        "metadata": {"diracx.tasks": "history"},
        "subjects": [namespace.history_subject],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "allow_direct": True,
    }
    # A minute takes some 2 kB.
    initial = {"max_age": 2 * 86_400 * NANOSECONDS, "max_bytes": 64 * MEBIBYTE, "metadata": _monitored()}
    return Asset("stream", name, name, config, initial, optional=True)


def _bucket(name: str, description: str, *, expiring: bool = False, direct: bool = False, history: int = 1) -> Asset:
    stream = f"KV_{name}"
    config = {
        "name": stream,
        "description": description,
        "metadata": {"diracx.tasks": "bucket"},
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": history,
        "allow_rollup_hdrs": True,
        # A key is removed by deleting its own revision, which leaves no marker.
        "deny_delete": False,
        "allow_msg_ttl": expiring,
        # A replica that lags may answer a direct read. Where correctness depends on reads, only the leader answers.
        "allow_direct": direct,
    }
    return Asset("bucket", name, stream, config, {"metadata": _monitored()})


def _results(namespace: Namespace) -> Asset:
    bucket = _bucket(namespace.results_bucket, "Results that somebody asked to keep", expiring=True, direct=True)
    # A full bucket refuses a result, and the message of its task stays unsettled. A short result takes 400 bytes.
    checks = _monitored({"subjects-warn": 200_000, "subjects-critical": 500_000})
    # Whoever waits for a result hears it once it is stored.
    republish = {"src": f"$KV.{bucket.name}.>", "dest": f"{namespace.name}.kept.>"}
    initial = {"max_bytes": 256 * MEBIBYTE, "metadata": checks}
    return replace(bucket, config={**bucket.config, "republish": republish}, initial=initial)


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
        # A task that waits for a retry stays pending, so enough of them would stop the queue at any limit.
        "max_ack_pending": -1,
        "max_deliver": -1,
        # A backoff would be added to the delay of a nak.
        "backoff": [],
    }
    initial = {
        "ack_wait": 30 * NANOSECONDS,
        "max_waiting": 4096,
        "metadata": _monitored({"unprocessed-critical": _MAX_WAITING[priority], "outstanding-ack-critical": 10_000}),
    }
    return Asset("consumer", name, namespace.tasks_stream, config, initial)


def _monitored(thresholds: Mapping[str, int] | None = None) -> dict[str, str]:
    return {f"{MONITOR}.enabled": "true"} | {f"{MONITOR}.{name}": str(at) for name, at in (thresholds or {}).items()}
