"""How do authors of extensions test their tasks?

Fixtures of the pytest plugin, which pytest loads by itself:

    nats_server         a real nats-server for the whole session
    mesh                a `Mesh` in a namespace of the test's own: submits tasks, executes them, returns the outcomes

Functions and classes of this package:

    run_task            executes one task once, without a queue or a worker
    wait_until          waits for a fact, in place of a sleep
    sqlite_database     makes an empty database for tasks, from a subclass of diracx-db's `BaseSQLDB`
    InMemoryLockStore   keeps locks for `run_task`; calls that share one exclude each other
    EmbeddedServer      the type of `nats_server`
    Mesh, Delivered, Submitted, LeakError    the type of `mesh`, what its methods return, and what its end may raise
    Succeeded, Retry, LockBusy, Held, Dead, Discarded, Cancelled, Interrupted, WrongQueue    the outcomes of a delivery

pytest loads the plugin, and with it this module, in every run of the environment. So each name comes from its module
when somebody asks for it, and a run that asks for none imports nothing more of this project: it loses no time, and what
an author measures with coverage is not imported before. `__init__.pyi` tells the names to type checkers.
"""

from importlib import import_module
from typing import Any, Final

_NAMES: Final = {
    "plumbing.embedded.server": "EmbeddedServer EmbeddedServerError",
    "plumbing.execution.job": "Cancelled Dead Discarded Held Interrupted LockBusy Retry Succeeded WrongQueue",
    "testing.databases": "sqlite_database",
    "testing.execution": "run_task",
    "testing.lock_store": "InMemoryLockStore",
    "testing.mesh": "LeakError Mesh",
    "testing.submissions": "Submitted",
    "testing.waiting": "wait_until",
    "testing.working": "Delivered",
}
"""The public names by their module."""

_MODULE_OF: Final = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"diracx.tasks.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
