"""The accounts and users of one mesh, in the configuration language of nats-server.

The text belongs inside the block `accounts`. See `permissions` for the permissions of each user, and for the reason why
there are three accounts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from diracx.tasks.plumbing.operations.permissions import API, Role, roles
from diracx.tasks.plumbing.wire.names import Namespace

_HEARD: Final = ".kept.*"
"""The end of the subject that is only listened to; everything else that is imported is a request."""

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
    by_name = roles(namespace)
    # The roles with an account of their own, and where each of their subjects is in the mesh.
    outside = [by_name.pop(name) for name in ("producer", "observer")]
    imports = {role.name: _in_the_mesh(role, namespace.imported_api) for role in outside}
    importers: dict[str, list[str]] = {}
    for role in outside:
        for subject in dict.fromkeys(imports[role.name].values()):
            importers.setdefault(subject, []).append(f"{mesh}_{role.name.upper()}S")
    exports = [_export(subject, accounts) for subject, accounts in importers.items()]
    variables = "\n".join(f"#   {password_variable(namespace, role)}" for role in roles(namespace))
    lines = [
        _HEADER.format(namespace=namespace.name, variables=variables),
        *_account(mesh, namespace, by_name.values(), ["jetstream: enabled", *_list("exports", exports)]),
        *(
            line
            for role in outside
            for line in _account(
                f"{mesh}_{role.name.upper()}S",
                namespace,
                [role],
                _list("imports", [_import(mesh, subject, local) for local, subject in imports[role.name].items()]),
            )
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


def _in_the_mesh(role: Role, prefix: str) -> dict[str, str]:
    """Where the subjects are in the account of the mesh that a role reaches by imports."""
    heard = (subject for subject in role.subscribe if not subject.startswith("_INBOX"))
    return {subject: subject.replace(prefix, API, 1) for subject in (*role.publish, *heard)}


def _export(subject: str, accounts: Iterable[str]) -> str:
    kind = "stream" if subject.endswith(_HEARD) else "service"
    # These requests have several answers: one from each service, or one for each message of a batch.
    several = ", response_type: stream" if subject.startswith(("$SRV.", f"{API}.DIRECT.")) else ""
    return f"{{ {kind}: {json.dumps(subject)}, accounts: [{', '.join(accounts)}]{several} }}"


def _import(account: str, subject: str, local: str) -> str:
    kind = "stream" if subject.endswith(_HEARD) else "service"
    to = "" if local == subject else f", to: {json.dumps(local)}"
    return f"{{ {kind}: {{ account: {account}, subject: {json.dumps(subject)} }}{to} }}"


def _list(name: str, items: Iterable[str]) -> Iterator[str]:
    yield f"{name}: ["
    yield from _indented(items)
    yield "]"


def _indented(lines: Iterable[str], by: int = 4) -> Iterator[str]:
    return (f"{' ' * by}{line}" for line in lines)
