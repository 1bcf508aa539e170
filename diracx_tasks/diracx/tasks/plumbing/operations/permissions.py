"""The permissions of each role on a server: the least that its work needs, as accounts and users of nats-server.

`accounts` writes the configuration of nats-server from this module. A mesh has three accounts:

* `<NAMESPACE>`: the mesh, with the users worker, scheduler and operator. A worker executes the code of tasks, and is
  trusted with the mesh. It reaches nothing outside of it.
* `<NAMESPACE>_PRODUCERS`: submits tasks. A producer receives acknowledgements and results, and nothing else.
* `<NAMESPACE>_OBSERVERS`: reads.

The last two reach the JetStream API under the prefix `<NAMESPACE>.API`, as far as they may: `--js-api-prefix` of the
nats command.

Permissions within one account are not enough. A user who may send a request may name any subject of the account for the
reply, and the server publishes the reply there even if the user may not publish there. So an observer could put a
stored task back into a queue, and a producer could overwrite a lock with the acknowledgement of a task. Producers and
observers therefore have accounts of their own, and reach the mesh by imports, whose replies return to their own account
only.

Each namespace has its own three accounts, so no user reaches another namespace, not even by naming its subjects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection.handshake import API_PREFIX
from diracx.tasks.plumbing.jetstream.handover import LEADER_ELECTED
from diracx.tasks.plumbing.operations.worker_service import worker_service
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER, LeaderLock
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.settlement.ack_replay import CONSUMER_LEADER_ELECTED

API: Final = API_PREFIX

# The requests of `nats micro`, which workers and schedulers answer (ADR-32).
_SERVICES: Final = "$SRV.>"


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of user."""

    name: str
    purpose: str
    """One line, for the comment in the configuration."""
    publish: tuple[str, ...]
    """The subjects that the user may publish and send requests to."""
    subscribe: tuple[str, ...]
    """The subjects that the user may subscribe to."""
    deny: tuple[str, ...] = ()
    """The exceptions from `publish`."""
    answers: bool = False
    """Whether the user may reply to requests that it receives, once each."""


def roles(namespace: Namespace) -> dict[str, Role]:
    """All roles of a mesh, by name."""
    defined = (_producer(namespace), _worker(namespace), _scheduler(namespace), _operator(namespace))
    return {role.name: role for role in (*defined, _observer(namespace))}


def _producer(names: Namespace) -> Role:
    api = names.imported_api
    return Role(
        "producer",
        "submits tasks, receives the acknowledgements, and reads results",
        (*_submitting(names), f"{api}.INFO", f"{api}.STREAM.MSG.GET.KV_{names.results_bucket}"),
        (f"{names.inbox_prefix('producer')}.>", _hearing_results(names)),
    )


def _worker(names: Namespace) -> Role:
    tasks = names.tasks_stream
    publish = (
        *_submitting(names),
        *_start_checks(names),
        f"{names.name}.dlq.>",
        f"{API}.CONSUMER.MSG.NEXT.{tasks}.*",
        f"$JS.ACK.{tasks}.>",
        f"{API}.STREAM.MSG.GET.{names.dead_letters_stream}",
        # Removes a delayed task from there once the task is settled, keeps and reads the records of groups there, and
        # reads what operators have cancelled.
        f"{API}.STREAM.MSG.DELETE.{names.later_stream}",
        f"{API}.STREAM.MSG.GET.{names.later_stream}",
        # Looks there for the children of a group that may have been stored before.
        f"{API}.DIRECT.GET.{tasks}",
        # On a cluster, where that finds none: the leader knows better.
        f"{API}.STREAM.MSG.GET.{tasks}",
        # Has what falls due go on at once when the stream of later has got another leader.
        f"{API}.STREAM.LEADER.STEPDOWN.{tasks}",
        *_reading(names.config_bucket),
        *(
            subject
            for bucket in (names.locks_bucket, names.attempts_bucket, names.results_bucket)
            for subject in _writing(bucket)
        ),
    )
    purpose = "executes tasks, and submits more from within them"
    worker = _serving(names, "worker", purpose, publish, deny=(_leadership(names),))
    # Only operators cancel tasks; a worker reads the notes, and hears of new ones. A task may wait for the result of
    # another.
    # What it asks of leaders, it asks of new ones at once.
    elected = (f"{LEADER_ELECTED}.{names.later_stream}", f"{CONSUMER_LEADER_ELECTED}.{tasks}.*")
    heard = (_call_inbox(names), names.all_cancelled, _hearing_results(names), *elected)
    return replace(worker, subscribe=(*worker.subscribe, *heard))


def _scheduler(names: Namespace) -> Role:
    later, locks = names.later_stream, f"KV_{names.locks_bucket}"
    publish = (
        *_start_checks(names),
        f"{names.name}.periodic.>",
        f"{names.name}.state.>",
        f"{API}.STREAM.MSG.GET.{later}",
        f"{API}.STREAM.PURGE.{later}",
        *_reading(names.config_bucket),
        # Only the leadership among the locks. But a removal names a revision, and permissions cannot tell its key.
        _leadership(names),
        f"{API}.STREAM.MSG.GET.{locks}",
        f"{API}.STREAM.MSG.DELETE.{locks}",
        *_sampling(names),
    )
    return _serving(names, "scheduler", "supplies the occurrences of periodic tasks", publish)


def _serving(names: Namespace, name: str, purpose: str, publish: tuple[str, ...], deny: tuple[str, ...] = ()) -> Role:
    return Role(name, purpose, publish, (f"{names.inbox_prefix(name)}.>", _SERVICES), deny, answers=True)


def _operator(names: Namespace) -> Role:
    # The account contains only this mesh.
    subjects = (f"{names.name}.>", "$KV.>")
    inboxes = ("_INBOX.>", *(f"{names.inbox_prefix(role)}.>" for role in ("operator", "producer")), _call_inbox(names))
    return Role(
        "operator",
        "creates, repairs and replays: everything within the mesh",
        # A restore sends its chunks to `$JS.SNAPSHOT.RESTORE.>`, a backup acknowledges them on `$JS.SNAPSHOT.ACK.>`.
        # `nats kv watch` stops after some megabytes that it could not confirm on `$JS.FC.>`.
        (*subjects, f"{API}.>", "$JS.ACK.>", _SERVICES, "$JS.SNAPSHOT.>", "$JS.FC.>"),
        (*inboxes, *subjects, "$JS.EVENT.ADVISORY.>"),
    )


def _observer(names: Namespace) -> Role:
    api = names.imported_api
    reads = (
        "INFO",
        "STREAM.LIST",
        "STREAM.NAMES",
        "STREAM.INFO.*",
        "STREAM.MSG.GET.*",
        "DIRECT.GET.*",
        "DIRECT.GET.*.>",
        "CONSUMER.LIST.*",
        "CONSUMER.NAMES.*",
        "CONSUMER.INFO.*.*",
    )
    # The usual inboxes are safe: only replies to observers arrive in their account.
    inboxes = ("_INBOX.>", *(f"{names.inbox_prefix(role)}.>" for role in ("observer", "operator", "producer")))
    # `nats stream view` of a work queue ignores the prefix.
    direct = (f"{API}.{subject}" for subject in reads if subject.startswith("DIRECT."))
    publish = (*(f"{api}.{subject}" for subject in reads), *direct, _SERVICES)
    return Role("observer", "reads everything, and changes nothing", publish, inboxes)


def _streams(names: Namespace) -> list[str]:
    return [asset.stream for asset in assets(names) if asset.kind != "consumer"]


def _submitting(names: Namespace) -> tuple[str, ...]:
    return (f"{names.name}.tasks.*.*", f"{names.name}.delayed.*", f"{names.name}.group.>")


def _start_checks(names: Namespace) -> tuple[str, ...]:
    """The requests with which a process checks the assets at its start."""
    infos = (f"{API}.STREAM.INFO.{stream}" for stream in _streams(names))
    return (f"{API}.INFO", *infos, f"{API}.CONSUMER.INFO.{names.tasks_stream}.*")


def _sampling(names: Namespace) -> tuple[str, ...]:
    # The leader keeps the history of the mesh: what stands in the queues, since when, and what the workers have done.
    tasks = names.tasks_stream
    asked = (f"{API}.CONSUMER.LIST.{tasks}", f"{API}.STREAM.MSG.GET.{tasks}", f"$SRV.STATS.{worker_service(names)}")
    return (*asked, names.history_subject)


def _call_inbox(names: Namespace) -> str:
    """The inbox of `call`, which needs the permissions of a worker or of an operator."""
    return f"{names.inbox_prefix('call')}.>"


def _leadership(names: Namespace) -> str:
    return f"$KV.{names.locks_bucket}.{LeaderLock(DEFAULT_TAKEOVER).key}"


def _reading(bucket: str) -> tuple[str, ...]:
    return (f"{API}.STREAM.MSG.GET.KV_{bucket}",)


def _hearing_results(names: Namespace) -> str:
    return f"{names.name}.kept.*"


def _writing(bucket: str) -> tuple[str, ...]:
    return (*_reading(bucket), f"$KV.{bucket}.>", f"{API}.STREAM.MSG.DELETE.KV_{bucket}")
