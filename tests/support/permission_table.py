"""The permissions of the roles: each operation with its requests and the roles that may carry it out.

The tests send these requests as each role, and check that the server accepts or refuses them as written here. The table
in `nats/README.md` is rendered from here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.wire.names import Namespace

ROLES = ("producer", "worker", "scheduler", "operator", "observer")
ALL = frozenset(ROLES)
LOOKING = frozenset({"worker", "scheduler", "operator", "observer"})
NOBODY: frozenset[str] = frozenset()

FAR = "@at 2099-01-01T00:00:00Z"


@dataclass(frozen=True)
class Request:
    """A request. `{api}` stands for the prefix of the JetStream API, `{ns}` and `{NS}` for the namespace."""

    subject: str
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    refused_by: str = ""
    """The error of JetStream that shows that permissions let the request pass."""

    def filled(self, namespace: str, api: str) -> Request:
        values = {"{api}": api, "{ns}": namespace, "{NS}": namespace.upper()}
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {name: _fill(value, values) for name, value in self.headers.items()}
        return Request(_fill(self.subject, values), _fill(body.decode(), values).encode(), headers, self.refused_by)


def _fill(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


@dataclass(frozen=True)
class Operation:
    text: str
    roles: frozenset[str]
    requests: tuple[Request, ...] = ()
    listens: tuple[str, ...] = ()
    """Subjects that the operation subscribes to."""


def _later(subject: str, due: str = "{ns}.due.normal.small") -> Request:
    return Request(subject, b"{}", {"Nats-Schedule": FAR, "Nats-Schedule-Target": due})


def _get(stream: str, subject: str) -> Request:
    # 404: permitted, and nothing was found.
    return Request("{api}.STREAM.MSG.GET." + stream, {"last_by_subj": subject}, refused_by="no message found")


def _definition(stream: str) -> dict[str, Any]:
    found = next(asset for asset in assets(Namespace("abc")) if asset.stream == stream.replace("{NS}", "ABC"))
    text = json.dumps(found.definition)
    built: dict[str, Any] = json.loads(text.replace("ABC", "{NS}").replace("abc", "{ns}"))
    return built


def _roles(*names: str) -> frozenset[str]:
    return frozenset(names)


OPERATIONS = (
    Operation(
        "submit a task",
        _roles("producer", "worker", "operator"),
        (Request("{ns}.tasks.normal.small", b"{}", {"Task-Name": "test:Nothing"}),),
    ),
    Operation("submit a task for later", _roles("producer", "worker", "operator"), (_later("{ns}.delayed.x"),)),
    Operation(
        "spawn a group, and write its records",
        _roles("producer", "worker", "operator"),
        (Request("{ns}.group.x", b"{}"), Request("{ns}.group.x.part.0", b"{}"), _later("{ns}.delayed.x-callback")),
    ),
    Operation(
        "take a task from its queue, and settle it",
        _roles("worker", "operator"),
        (
            Request("$JS.API.CONSUMER.MSG.NEXT.{NS}_TASKS.realtime-large", {"batch": 1, "no_wait": True}),
            Request("$JS.ACK.{NS}_TASKS.realtime-large.1.999.999.1.0", b"+WPI"),
        ),
    ),
    Operation(
        "have another server lead the queues",
        _roles("worker", "operator"),
        (Request("{api}.STREAM.LEADER.STEPDOWN.{NS}_TASKS", {}, refused_by="JetStream clustering support required"),),
    ),
    Operation(
        "hear of a new leader of what is for later",
        _roles("worker", "operator"),
        listens=("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{NS}_LATER",),
    ),
    Operation(
        "hear of a new leader of a queue",
        _roles("worker", "operator"),
        listens=("$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{NS}_TASKS.normal-small",),
    ),
    Operation(
        "record an attempt, a lock, a result",
        _roles("worker", "operator"),
        tuple(Request(f"$KV.{{ns}}_{bucket}.x", b"{}") for bucket in ("attempts", "locks", "results")),
    ),
    Operation(
        "read a result",
        _roles("producer", "worker", "operator", "observer"),
        (_get("KV_{ns}_results", "$KV.{ns}_results.x"),),
    ),
    Operation(
        "hear when a result is there",
        _roles("producer", "worker", "operator"),
        listens=("{ns}.kept.x",),
    ),
    Operation(
        "release somebody's lock",
        _roles("worker", "scheduler", "operator"),
        (Request("{api}.STREAM.MSG.DELETE.KV_{ns}_locks", {"seq": 999}, refused_by="stream store EOF"),),
    ),
    Operation("store a dead letter", _roles("worker", "operator"), (Request("{ns}.dlq.test.Nothing.1", b"{}"),)),
    Operation(
        "forget what fell due and is done",
        _roles("worker", "operator"),
        (Request("{api}.STREAM.MSG.DELETE.{NS}_LATER", {"seq": 999}, refused_by="stream store EOF"),),
    ),
    Operation(
        "lead the schedulers",
        _roles("scheduler", "operator"),
        (Request("$KV.{ns}_locks.leader.task.scheduler", b"{}"),),
    ),
    Operation(
        "supply a schedule, or withdraw it",
        _roles("scheduler", "operator"),
        (
            _later("{ns}.periodic.test.Nothing.x"),
            Request("{ns}.state.test.Nothing", b"{}", {"Nats-Rollup": "sub"}),
            Request("{api}.STREAM.PURGE.{NS}_LATER", {"filter": "{ns}.periodic.test.Nothing.x"}),
        ),
    ),
    Operation(
        "withdraw a task that waits for later, or all of them",
        _roles("scheduler", "operator"),
        (
            Request("{api}.STREAM.PURGE.{NS}_LATER", {"filter": "{ns}.delayed.nothing"}),
            Request("{api}.STREAM.PURGE.{NS}_LATER", {"filter": "{ns}.delayed.*"}),
        ),
    ),
    Operation("ask whether JetStream is there", ALL, (Request("{api}.INFO"),)),
    Operation(
        "cancel tasks that wait or run",
        _roles("operator"),
        (Request("{ns}.cancelled.id.nothing", b"{}", {"Nats-Rollup": "sub"}),),
    ),
    Operation("hear of it at once", _roles("worker", "operator"), listens=("{ns}.cancelled.*.*",)),
    Operation(
        "look at streams, queues and buckets",
        LOOKING,
        (
            Request("{api}.STREAM.INFO.{NS}_TASKS"),
            Request("{api}.STREAM.INFO.KV_{ns}_locks", {"subjects_filter": ">"}),
            Request("{api}.CONSUMER.INFO.{NS}_TASKS.normal-small"),
        ),
    ),
    Operation(
        "list them",
        _roles("operator", "observer"),
        (
            Request("{api}.STREAM.LIST"),
            Request("{api}.STREAM.NAMES"),
        ),
    ),
    Operation(
        "list the queues", _roles("scheduler", "operator", "observer"), (Request("{api}.CONSUMER.LIST.{NS}_TASKS"),)
    ),
    Operation(
        "read a task that waits",
        LOOKING,
        (_get("{NS}_TASKS", "{ns}.tasks.normal.small"),),
    ),
    Operation(
        "look through the tasks that wait",
        _roles("worker", "operator", "observer"),
        (
            Request("{api}.DIRECT.GET.{NS}_TASKS", {"last_by_subj": "{ns}.tasks.normal.small"}),
            Request("$JS.API.DIRECT.GET.{NS}_TASKS", {"last_by_subj": "{ns}.tasks.normal.small"}),
        ),
    ),
    Operation(
        "read a schedule, the record of a group, or what is cancelled",
        _roles("worker", "scheduler", "operator", "observer"),
        (_get("{NS}_LATER", "{ns}.state.x"),),
    ),
    Operation("read a dead letter", _roles("worker", "operator", "observer"), (_get("{NS}_DLQ", "{ns}.dlq.a.b.1"),)),
    Operation("keep the history", _roles("scheduler", "operator"), (Request("{ns}.history.minute", b"{}"),)),
    Operation("read the history", _roles("operator", "observer"), (_get("{NS}_HISTORY", "{ns}.history.x"),)),
    Operation("read a lock", LOOKING, (_get("KV_{ns}_locks", "$KV.{ns}_locks.x"),)),
    Operation("read the configuration", LOOKING, (_get("KV_{ns}_config", "$KV.{ns}_config.configuration"),)),
    Operation("set the configuration", _roles("operator"), (Request("$KV.{ns}_config.configuration", b"vos: []"),)),
    Operation(
        "remove a task or a dead letter",
        _roles("operator"),
        (
            Request("{api}.STREAM.MSG.DELETE.{NS}_TASKS", {"seq": 999}, refused_by="stream store EOF"),
            Request("{api}.STREAM.MSG.DELETE.{NS}_DLQ", {"seq": 999}, refused_by="stream store EOF"),
            Request("{api}.STREAM.PURGE.{NS}_DLQ"),
        ),
    ),
    Operation(
        "pause a queue, and resume it",
        _roles("operator"),
        (
            Request("{api}.CONSUMER.PAUSE.{NS}_TASKS.background-large", {"pause_until": "2099-01-01T00:00:00Z"}),
            Request("{api}.CONSUMER.PAUSE.{NS}_TASKS.background-large", {}),
        ),
    ),
    Operation(
        "create or change a queue",
        _roles("operator"),
        (
            Request(
                "{api}.CONSUMER.CREATE.{NS}_DLQ.look.{ns}.dlq.>",
                {
                    "stream_name": "{NS}_DLQ",
                    "config": {"name": "look", "filter_subject": "{ns}.dlq.>", "inactive_threshold": 10**9},
                },
            ),
            Request("{api}.CONSUMER.DELETE.{NS}_DLQ.look"),
        ),
    ),
    Operation(
        "create, change, purge or delete a stream",
        _roles("operator"),
        (
            Request("{api}.STREAM.UPDATE.{NS}_DLQ", _definition("{NS}_DLQ")),
            Request("{api}.STREAM.PURGE.{NS}_TASKS"),
            Request("{api}.STREAM.DELETE.{NS}_DLQ"),
            Request("{api}.STREAM.CREATE.{NS}_DLQ", _definition("{NS}_DLQ")),
        ),
    ),
    Operation("ask workers and schedulers how they are", _roles("operator", "observer"), (Request("$SRV.PING"),)),
    Operation(
        "ask workers what they have done",
        _roles("scheduler", "operator", "observer"),
        (Request("$SRV.STATS.{ns}-worker"),),
    ),
    Operation("be asked so", _roles("worker", "scheduler"), listens=("$SRV.>",)),
    Operation(
        "hear tasks as they are submitted, locks as they change, and advisories",
        _roles("operator"),
        listens=("{ns}.tasks.>", "{ns}.delayed.*", "$KV.{ns}_locks.>", "$JS.EVENT.ADVISORY.>"),
    ),
    Operation(
        "hear the answers to others",
        NOBODY,
        listens=(
            *(">", "*.>", "_R_.>", "$JS.ACK.>", "$SYS.>"),
            *(f"_INBOX_{{ns}}_{role}.>" for role in ("worker", "scheduler")),
        ),
    ),
)

INBOXES: dict[str, frozenset[str]] = {
    "producer": _roles("producer"),
    "worker": _roles("worker", "call"),
    "scheduler": _roles("scheduler"),
    "operator": _roles("operator", "producer", "call", ""),
    "observer": _roles("observer", "operator", "producer", ""),
}
"""The inboxes that each role may listen to, by the role of their owner; "" is the inbox of the nats command.

Producers and observers are alone in their accounts. So an operator that listens to the inbox of a producer hears only
itself, and so does an observer that listens to that of an operator."""

LATER_HEADERS: dict[str, dict[str, str]] = {
    "empty it": {"Nats-Rollup": "all"},
    "take back a schedule of others": {"Nats-Scheduler": "{ns}.periodic.a.B.1", "Nats-Schedule-Next": "purge"},
    "write a state of a schedule": {
        "Nats-Schedule": "@at 2020-01-01T00:00:00Z",
        "Nats-Schedule-Target": "{ns}.state.a.B",
    },
    "cancel tasks": {
        "Nats-Schedule": "@at 2020-01-01T00:00:00Z",
        "Nats-Schedule-Target": "{ns}.cancelled.task.a=3AB",
    },
}
"""Headers by which a role that may submit delayed tasks would get round its permissions in that stream."""


@dataclass(frozen=True)
class Command:
    """A command of `diracx-task-run` with arguments by which it reaches the server."""

    name: str
    roles: frozenset[str]
    arguments: tuple[str, ...] = ()

    def typed(self, values: Mapping[str, str]) -> list[str]:
        return [*self.name.split(), *(argument.format_map(values) for argument in self.arguments)]


_SUBMITTING, _SEEING, _OPERATING = _roles("producer", "operator"), _roles("operator", "observer"), _roles("operator")

COMMANDS = (
    Command("submit", _SUBMITTING, ("lollygag:SyncOwnersTask", "--args", '["alice"]')),
    Command("schedule run", _SUBMITTING, ("lollygag:OwnerCleanupTask",)),
    Command("result", _roles("producer", "operator", "observer"), ("{kept}",)),
    Command("worker", _roles("worker"), ("--worker-size", "large", "--burst")),
    Command("call", _roles("worker", "operator"), ("lollygag:SyncOwnersTask", "--args", '["{role}"]')),
    Command("scheduler", _roles("scheduler")),
    Command("status", _SEEING),
    Command("task", _SEEING, ("{later}",)),
    Command("find", _SEEING),
    Command("history", _SEEING),
    Command("dashboard", _SEEING, ("--port", "0")),
    Command("schedule list", _SEEING),
    Command("dlq list", _SEEING),
    Command("dlq show", _SEEING, ("{shown}",)),
    Command("locks list", _SEEING),
    Command("config show", _SEEING),
    Command("config history", _SEEING),
    Command("config diff", _SEEING, ("{file}",)),
    Command("cancel", _OPERATING, ("{later}",)),
    Command("pause", _OPERATING, ("{queue}",)),
    Command("resume", _OPERATING, ("{queue}",)),
    Command("dlq replay", _OPERATING, ("{replayed}",)),
    Command("dlq purge", _OPERATING, ("{purged}", "--yes")),
    Command("locks release", _OPERATING, ("{lock}", "--yes")),
    Command("config set", _OPERATING, ("{file}",)),
    Command("config rollback", _OPERATING),
    Command("setup", _OPERATING),
)
"""The commands that connect. The test fills in `{...}` with values of its own for each role."""


def table(head: str, rows: Iterable[tuple[str, frozenset[str]]]) -> str:
    """A Markdown table, as in the README: a row for each operation, a column for each role."""
    lines = [f"| {head} | {' | '.join(ROLES)} |", f"|---{'|:-:' * len(ROLES)}|"]
    lines += (f"| {text} | {' | '.join('yes' if role in may else '' for role in ROLES)} |" for text, may in rows)
    return "\n".join(lines)
