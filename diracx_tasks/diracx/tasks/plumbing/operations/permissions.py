"""What each role may do on a server: the least that lets it do its work, as accounts and users of nats-server.

`accounts` writes the configuration from here. Three accounts, since permissions alone do not keep a reader from
writing: whoever may send a request may name any subject of the account for its answer, and the server publishes there
what the requester may not. With that, a user who may only look could put a stored task back into a queue, and a
producer could overwrite a lock with the acknowledgement of a task. So those who must not do more than they are granted
stand in accounts of their own, and reach the mesh by imports, whose answers come back to their own account only:

* `<NAMESPACE>`: the mesh itself with worker, scheduler and operator. A worker executes the code of tasks, and is
  trusted with the mesh; it can reach nothing beyond it.
* `<NAMESPACE>_PRODUCERS`: submits. It hears acknowledgements, and nothing else.
* `<NAMESPACE>_OBSERVERS`: looks. Its JetStream API goes by the prefix `<NAMESPACE>.API`.

Each namespace has accounts of its own, so that no user reaches another one, not even by the name of a subject.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection.connection import API_PREFIX
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER, LeaderLock
from diracx.tasks.plumbing.wire.names import Namespace

API: Final = API_PREFIX

# What `nats micro` asks, and what workers and schedulers answer (ADR-32).
_SERVICES: Final = "$SRV.>"


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of user."""

    name: str
    purpose: str
    """One line, for the operator."""
    publish: tuple[str, ...]
    """The subjects that it may publish and send requests to."""
    subscribe: tuple[str, ...]
    """The subjects that it may listen to."""
    deny: tuple[str, ...] = ()
    """Of `publish`, what it may not all the same."""
    answers: bool = False
    """Whether it may answer requests that it hears, once each."""


def roles(namespace: Namespace) -> dict[str, Role]:
    """All roles of a mesh, by name."""
    defined = (_producer(namespace), _worker(namespace), _scheduler(namespace), _operator(namespace))
    return {role.name: role for role in (*defined, _observer(namespace))}


def observer_api(namespace: Namespace) -> str:
    """The prefix of the JetStream API for observers: `--js-api-prefix` of the nats command."""
    return f"{namespace.name.upper()}.API"


def _producer(names: Namespace) -> Role:
    return Role(
        "producer",
        "submits tasks, and hears whether they were stored",
        _submitting(names),
        (f"{names.inbox_prefix('producer')}.>",),
    )


def _worker(names: Namespace) -> Role:
    tasks = names.tasks_stream
    publish = (
        *_submitting(names),
        *_looking(names),
        f"{names.name}.dlq.>",
        f"{API}.CONSUMER.MSG.NEXT.{tasks}.*",
        f"$JS.ACK.{tasks}.>",
        f"{API}.STREAM.MSG.GET.{names.dead_letters_stream}",
        # What fell due is forgotten there once it is settled.
        f"{API}.STREAM.MSG.DELETE.{names.later_stream}",
        *_reading(names.config_bucket),
        *(
            subject
            for bucket in (names.locks_bucket, names.attempts_bucket, names.results_bucket, names.groups_bucket)
            for subject in _writing(bucket)
        ),
    )
    purpose = "executes tasks, and submits more from within them"
    worker = _serving(names, "worker", purpose, publish, deny=(_leadership(names),))
    return replace(worker, subscribe=(*worker.subscribe, _calling(names)))


def _scheduler(names: Namespace) -> Role:
    later, locks = names.later_stream, f"KV_{names.locks_bucket}"
    publish = (
        *_looking(names),
        f"{names.name}.periodic.>",
        f"{names.name}.state.>",
        f"{API}.STREAM.MSG.GET.{later}",
        f"{API}.STREAM.PURGE.{later}",
        *_reading(names.config_bucket),
        # Of the locks, the leadership only; a revision is removed by its number, which permissions cannot tell.
        _leadership(names),
        f"{API}.STREAM.MSG.GET.{locks}",
        f"{API}.STREAM.MSG.DELETE.{locks}",
    )
    return _serving(names, "scheduler", "supplies the occurrences of periodic tasks", publish)


def _serving(names: Namespace, name: str, purpose: str, publish: tuple[str, ...], deny: tuple[str, ...] = ()) -> Role:
    return Role(name, purpose, publish, (f"{names.inbox_prefix(name)}.>", _SERVICES), deny, answers=True)


def _operator(names: Namespace) -> Role:
    # The account holds this mesh and nothing else.
    held = (f"{names.name}.>", "$KV.>")
    inboxes = ("_INBOX.>", *(f"{names.inbox_prefix(role)}.>" for role in ("operator", "producer")), _calling(names))
    return Role(
        "operator",
        "creates, repairs, replays: everything within the mesh",
        (*held, f"{API}.>", "$JS.ACK.>", _SERVICES),
        (*inboxes, *held, "$JS.EVENT.ADVISORY.>"),
    )


def _observer(names: Namespace) -> Role:
    api = observer_api(names)
    looking = (
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
    # In an account of its own nothing but its own replies can be heard, so the usual inboxes do.
    inboxes = ("_INBOX.>", *(f"{names.inbox_prefix(role)}.>" for role in ("observer", "operator")))
    # `nats stream view` reads a work queue without regard to the prefix.
    direct = (f"{API}.{subject}" for subject in looking if subject.startswith("DIRECT."))
    publish = (*(f"{api}.{subject}" for subject in looking), *direct, _SERVICES)
    return Role("observer", "looks at everything, and changes nothing", publish, inboxes)


def _streams(names: Namespace) -> list[str]:
    return [asset.stream for asset in assets(names) if asset.kind != "consumer"]


def _submitting(names: Namespace) -> tuple[str, ...]:
    return (f"{names.name}.tasks.*.*", f"{names.name}.delayed.*")


def _looking(names: Namespace) -> tuple[str, ...]:
    """What a process compares at its start."""
    infos = (f"{API}.STREAM.INFO.{stream}" for stream in _streams(names))
    return (f"{API}.INFO", *infos, f"{API}.CONSUMER.INFO.{names.tasks_stream}.*")


def _calling(names: Namespace) -> str:
    """Where whoever executes a task by `call` hears answers: it takes a worker's permissions, and an operator's do."""
    return f"{names.inbox_prefix('call')}.>"


def _leadership(names: Namespace) -> str:
    return f"$KV.{names.locks_bucket}.{LeaderLock(DEFAULT_TAKEOVER).key}"


def _reading(bucket: str) -> tuple[str, ...]:
    return (f"{API}.STREAM.MSG.GET.KV_{bucket}",)


def _writing(bucket: str) -> tuple[str, ...]:
    return (*_reading(bucket), f"$KV.{bucket}.>", f"{API}.STREAM.MSG.DELETE.KV_{bucket}")
