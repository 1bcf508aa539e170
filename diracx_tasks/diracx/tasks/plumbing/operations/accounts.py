"""The accounts and users of one mesh, in the configuration language of nats-server.

The text belongs inside the block `accounts`. See `permissions` for the permissions of each user, and for the reason why
there are three accounts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from diracx.tasks.plumbing.operations.permissions import API, Role, observer_api, roles
from diracx.tasks.plumbing.wire.names import Namespace

_HEADER: Final = """\
# The accounts of namespace {namespace}, to be included in the block `accounts` of the server's configuration.
# Written by `diracx-task-run setup --namespace {namespace} --export DIR`. Passwords come from the environment of
# nats-server:
{variables}
"""


def user_name(namespace: Namespace, role: str) -> str:
    """The name of the user of one role, e.g. `diracx-worker`."""
    return f"{namespace.name}-{role}"


def password_variable(namespace: Namespace, role: str) -> str:
    """The environment variable of nats-server with the password of one role, e.g. `DIRACX_WORKER_PASSWORD`."""
    return f"{namespace.name.upper()}_{role.upper()}_PASSWORD"


def accounts_conf(namespace: Namespace) -> str:
    """The text of the whole file."""
    mesh = namespace.name.upper()
    producers, observers = f"{mesh}_PRODUCERS", f"{mesh}_OBSERVERS"
    by_name = roles(namespace)
    producer, observer = by_name.pop("producer"), by_name.pop("observer")
    prefix = observer_api(namespace)
    shown = {subject: subject.replace(prefix, API, 1) for subject in observer.publish}
    exports = [
        *(_export(subject, producers) for subject in producer.publish),
        *(_export(subject, observers) for subject in dict.fromkeys(shown.values())),
    ]
    variables = "\n".join(f"#   {password_variable(namespace, role)}" for role in roles(namespace))
    lines = [
        _HEADER.format(namespace=namespace.name, variables=variables),
        *_account(mesh, namespace, by_name.values(), ["jetstream: enabled", *_list("exports", exports)]),
        *_account(
            producers,
            namespace,
            [producer],
            _list("imports", [_import(mesh, subject, subject) for subject in producer.publish]),
        ),
        *_account(
            observers,
            namespace,
            [observer],
            _list("imports", [_import(mesh, subject, local) for local, subject in shown.items()]),
        ),
    ]
    return "\n".join(lines) + "\n"


def _account(name: str, namespace: Namespace, users: Iterable[Role], settings: Iterable[str]) -> Iterator[str]:
    yield f"{name} {{"
    yield from _indented(settings)
    yield "    users: ["
    for role in users:
        yield from _indented(_user(namespace, role), 8)
    yield "    ]"
    yield "}"


def _user(namespace: Namespace, role: Role) -> Iterator[str]:
    yield f"# {role.name}: {role.purpose}"
    yield "{"
    yield f"    user: {json.dumps(user_name(namespace, role.name))}"
    yield f"    password: ${password_variable(namespace, role.name)}"
    yield "    permissions: {"
    yield "        publish: {"
    yield from _indented(_list("allow", map(json.dumps, role.publish)), 12)
    if role.deny:
        yield from _indented(_list("deny", map(json.dumps, role.deny)), 12)
    yield "        }"
    yield from _indented(_list("subscribe", map(json.dumps, role.subscribe)), 8)
    if role.answers:
        yield '        allow_responses: { max: 1, expires: "10s" }'
    yield "    }"
    yield "}"


def _export(subject: str, account: str) -> str:
    # These requests have several answers: one from each service, or one for each message of a batch.
    several = ", response_type: stream" if subject.startswith(("$SRV.", f"{API}.DIRECT.")) else ""
    return f"{{ service: {json.dumps(subject)}, accounts: [{account}]{several} }}"


def _import(account: str, subject: str, local: str) -> str:
    to = "" if local == subject else f", to: {json.dumps(local)}"
    return f"{{ service: {{ account: {account}, subject: {json.dumps(subject)} }}{to} }}"


def _list(name: str, items: Iterable[str]) -> Iterator[str]:
    yield f"{name}: ["
    yield from _indented(items)
    yield "]"


def _indented(lines: Iterable[str], by: int = 4) -> Iterator[str]:
    return (f"{' ' * by}{line}" for line in lines)
