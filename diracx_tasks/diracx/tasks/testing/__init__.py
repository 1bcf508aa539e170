"""How do authors of extensions test their tasks?

Fixtures of the pytest plugin, which pytest loads by itself:

    nats_server         a real nats-server for the whole session
    mesh                a `Mesh` in a namespace of the test's own: submits tasks, executes them, returns the outcomes

Functions and classes of this package:

    run_task            executes one task once, without a queue or a worker
    wait_until          waits for a fact, in place of a sleep
    sqlite_database     makes an empty database for tasks, from a subclass of diracx-db's `BaseSQLDB`
    InMemoryLockStore   keeps locks for `run_task`; calls that share one exclude each other
    Succeeded, Retry, LockBusy, Dead, Discarded, Interrupted    the outcomes of a delivery
"""

from diracx.tasks.plumbing.execution.job import Dead, Discarded, Interrupted, LockBusy, Retry, Succeeded
from diracx.tasks.testing.databases import sqlite_database
from diracx.tasks.testing.execution import run_task
from diracx.tasks.testing.lock_store import InMemoryLockStore
from diracx.tasks.testing.mesh import Delivered, LeakError, Mesh
from diracx.tasks.testing.waiting import wait_until

__all__ = [
    "Dead",
    "Delivered",
    "Discarded",
    "InMemoryLockStore",
    "Interrupted",
    "LeakError",
    "LockBusy",
    "Mesh",
    "Retry",
    "Succeeded",
    "run_task",
    "sqlite_database",
    "wait_until",
]
