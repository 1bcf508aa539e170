"""For those who test tasks of their own.

Fixtures, which come with the pytest plugin of this distribution, so there is nothing to import for them:

    nats_server     a real nats-server for the whole session
    mesh            a `Mesh`: submit, work, look at outcomes, in a namespace of the test's own

Functions and classes, imported from here:

    run_task        executes one task once, without queue or worker
    wait_until      waits for a fact, in place of a sleep
    sqlite_database     an empty database of a class on diracx-db's `BaseSQLDB`, where tasks find it
    InMemoryLockStore   where `run_task` keeps locks; share one between calls to see them exclude each other
    Succeeded, Retry, LockBusy, Dead, Discarded, Interrupted    what became of a delivery
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
