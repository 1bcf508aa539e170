"""The names of nats-py that this project overrides or touches, though nats-py does not promise them.

A release of nats-py that changes one of them fails here. The row of the name says what we do with it, and so which code
to compare with the new release. Then mend that code or, if it still fits, update the row; and raise the upper bound of
nats-py in pyproject.toml.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nats.aio.client import PING_PROTO, Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from diracx.tasks.plumbing.jetstream.connection.client import PersistentClient

SOURCE = Path(__file__).parents[4] / "diracx_tasks"
CLIENT = "jetstream/connection/client.py"


@dataclass(frozen=True)
class Relied:
    """One name of nats-py.

    Args:
        used: What we do with it.
        where: The file of ours to look at.
        kind: `coroutine`, `function`, `static` or `attribute`.
        parameters: Those that we receive or pass, in order, without `self`.
        digest: Of its source; "" where only the name and the parameters count.
    """

    used: str
    where: str = CLIENT
    kind: str = "attribute"
    parameters: tuple[str, ...] = ()
    digest: str = ""


OF_CLIENT: dict[str, Relied] = {
    "__init__": Relied("called by ours, which adds the listeners", kind="function"),
    "close": Relied("called after ours has ended the reconnects", kind="coroutine"),
    "_send_ping": Relied(
        "replaced: a PING takes its turn in the queue", kind="coroutine", parameters=("future",), digest="d57b2f820443"
    ),
    "_process_msg": Relied(
        "replaced for a listener's message that `ListenerParser` left to nats-py; ours repeats its statistics",
        kind="coroutine",
        parameters=("sid", "subject", "reply", "data", "headers"),
        digest="6cff75947e97",
    ),
    "_process_err": Relied(
        "replaced: an error of the server does not close the client",
        kind="coroutine",
        parameters=("err_msg",),
        digest="ceb70f44e38f",
    ),
    "_connect_to_server": Relied(
        "called after ours has closed the old socket, which nats-py leaves open",
        kind="coroutine",
        parameters=("s",),
    ),
    "_process_connect_init": Relied(
        "called by ours, which drops the transport after a failed TLS handshake", kind="coroutine"
    ),
    "_connect_command": Relied(
        "called by ours with the credentials of this server, unless TLS is wanted and not offered", kind="function"
    ),
    "_nkeys_seed": Relied("the file of the nkey, which is read at each connect"),
    "_setup_nkeys_seed_connect": Relied("called at each connect: it reads the public key", kind="function"),
    "_auth_configured": Relied("tells whether CONNECT has credentials; set for each server of its own"),
    "_parse_header_lines": Relied(
        "replaced by a faster one", kind="static", parameters=("raw",), digest="049cf69148e0"
    ),
    "_process_headers": Relied(
        "not touched; `incoming.parse_headers` gives a status and its description the same names",
        kind="coroutine",
        parameters=("headers",),
        digest="fe656f61147d",
    ),
    "_ps": Relied("replaced by `ListenerParser`; nats-py parses what it reads with it, and resets it"),
    "_status": Relied("compared with `CONNECTED`: `is_connected` is true while a connection drains, too"),
    "_remove_sub": Relied(
        "extended to forget a listener; called to forget a subscription without a connection",
        kind="function",
        parameters=("sid", "max_msgs"),
    ),
    "_send_command": Relied(
        "called to queue a PING; `queue` does the same to a publish",
        kind="coroutine",
        parameters=("cmd",),
        digest="ed57e8e86389",
    ),
    "_flush_pending": Relied(
        "extended to write nothing to a closed socket; called to have a PING written; `queue` wakes the flusher in the "
        "same way",
        kind="coroutine",
        parameters=("force_flush",),
        digest="317c8d7ef54b",
    ),
    "_flusher": Relied(
        "not touched; `queue`, `write_now` and `drop_unsent` rely on how it empties `_pending`",
        kind="coroutine",
        digest="43957ffb357d",
    ),
    "_close": Relied(
        "not touched; `close` relies on it after the reconnects have ended", kind="coroutine", parameters=("status",)
    ),
    "_attempt_reconnect": Relied(
        "not touched; it repeats subscriptions, and it ends where `close` has cancelled it",
        kind="coroutine",
        digest="2bbc96e0f2f7",
    ),
    "_process_op_err": Relied(
        "not touched; it starts the reconnect, and the disconnect callback empties the queue",
        kind="coroutine",
        parameters=("e",),
        digest="d4257cb1203c",
    ),
    "_reconnection_task": Relied("cancelled by `close`, until it has ended"),
    "_flush_queue": Relied("None before the first connect; woken where a WebSocket is to be drained"),
    "_pending": Relied("the commands to write: appended to, written and emptied"),
    "_pending_data_size": Relied("the size of `_pending`, kept equal to it"),
    "_pongs": Relied("the futures of PINGs, in order"),
    "_transport": Relied("written to by `write_now`; closed and dropped where nats-py forgets it"),
    "_err": Relied("the last error, read by `last_error`"),
    "_error_cb": Relied("called with errors of the server and of listeners"),
    "_current_server": Relied("its URI tells whether TLS is wanted"),
    "_server_info": Relied("`tls_required` tells whether the server offers TLS"),
    "options": Relied("changed after the first connect: endless reconnects", "jetstream/connection/handshake.py"),
    "stats": Relied("counted for messages that go past nats-py's own code"),
}

OF_SUBSCRIPTION: dict[str, Relied] = {
    "_id": Relied("the key of its listener"),
    "drain": Relied("called by `leave`", kind="coroutine"),
    "_drain": Relied("not touched; `leave` relies on UNSUB, then a flush", kind="coroutine", digest="e278c0ffc3ea"),
}

OF_TRANSPORT: dict[str, Relied] = {
    "_io_writer": Relied("tells `write_now` and `_flush_pending` whether the socket is closed"),
}

ROWS = [
    (owner, name, row)
    for owner, rows in ((Client, OF_CLIENT), (Subscription, OF_SUBSCRIPTION), (TcpTransport, OF_TRANSPORT))
    for name, row in rows.items()
]


def by_name(owner: type, name: str) -> str:
    return f"{owner.__name__}.{name}"


@pytest.mark.parametrize(("owner", "name", "row"), ROWS, ids=[by_name(owner, name) for owner, name, _ in ROWS])
def test_nats_py_has_each_name_as_we_rely_on_it(owner: type, name: str, row: Relied) -> None:
    look = f"{by_name(owner, name)} of nats-py has changed. Ours: {row.used}. Look at {row.where}."
    if row.kind == "attribute":
        assert name in attributes(owner), look
        return
    found = inspect.getattr_static(owner, name, None)
    assert found is not None, look
    assert isinstance(found, staticmethod) == (row.kind == "static"), look
    function = getattr(owner, name)
    assert inspect.iscoroutinefunction(function) == (row.kind == "coroutine"), look
    parameters = [each for each in inspect.signature(function).parameters if each != "self"]
    assert tuple(parameters[: len(row.parameters)]) == row.parameters, look
    if row.digest:
        source = inspect.getsource(function)
        assert hashlib.sha256(source.encode()).hexdigest()[:12] == row.digest, f"{look} Its body has changed."


def test_our_overrides_take_what_nats_py_passes() -> None:
    for name in overridden():
        if name != "__init__":
            theirs, ours = inspect.signature(getattr(Client, name)), inspect.signature(getattr(PersistentClient, name))
            assert list(ours.parameters) == list(theirs.parameters), f"{name}: look at {CLIENT}"


def test_the_parser_passes_a_message_in_the_order_that_ours_takes_it() -> None:
    assert "self.nc._process_msg(sid, subject, reply, payload, hdr)" in inspect.getsource(Parser)


def test_the_parser_keeps_its_state_in_what_ours_looks_at() -> None:
    source = inspect.getsource(Parser)
    assert hashlib.sha256(source.encode()).hexdigest()[:12] == "0fb65d992f6f", "compare with incoming.ListenerParser"


def test_a_ping_is_the_command_that_ours_queues() -> None:
    assert PING_PROTO == b"PING\r\n"


def test_every_name_that_we_override_is_in_the_table() -> None:
    missing = overridden() - OF_CLIENT.keys()
    assert not missing, f"add a row to OF_CLIENT for {sorted(missing)}"


def test_every_private_name_of_nats_py_that_we_touch_is_in_the_table() -> None:
    unlisted = {
        f"{path.relative_to(SOURCE)}:{line} {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, name in touched(ast.parse(path.read_text("utf-8")))
        if name not in OF_CLIENT and name not in OF_SUBSCRIPTION
    }
    assert not unlisted, "add a row to OF_CLIENT or OF_SUBSCRIPTION for each of these"


def test_the_table_lists_no_name_that_we_do_not_use() -> None:
    stale = []
    for _, name, row in ROWS:
        source = (SOURCE / "diracx/tasks/plumbing" / row.where).read_text("utf-8")
        if not row.used.startswith("not touched") and f".{name}" not in source and f"def {name}" not in source:
            stale.append(name)
    assert not stale, "remove these rows"


def attributes(owner: type) -> set[str]:
    """The names of a class of nats-py, with those that its `__init__` assigns."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(vars(owner)["__init__"])))
    assigned = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return assigned | set(dir(owner))


def overridden() -> set[str]:
    """The names of nats-py's client that our class defines anew."""
    # Each Python gives a class other attributes of its own, such as `__firstlineno__` since 3.13.
    written = [name for name in vars(PersistentClient) if name == "__init__" or not name.startswith("__")]
    return {name for name in written if name in vars(Client)}


def touched(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each private attribute of nats-py's classes that a module of ours uses.

    Of `self` only in a subclass of the client: elsewhere it is ours. So is a name that another class of the module
    defines.
    """
    private = {name for name in attributes(Client) | attributes(Subscription) if _is_private(name)}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    derived = [each for each in classes if "Client" in map(ast.unparse, each.bases)]
    inside = {id(node) for each in derived for node in ast.walk(each)}
    ours = {name for each in classes if each not in derived for name in _defined(each)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in private:
            continue
        if id(node) in inside or (ast.unparse(node.value) not in ("self", "cls") and node.attr not in ours):
            yield node.lineno, node.attr


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(of: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(of):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr
