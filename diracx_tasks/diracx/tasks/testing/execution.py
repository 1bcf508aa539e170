"""One execution of one task, without a queue or a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.execution.executor import unawaited
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.locks import FencingToken, LockOwner, LockStore
from diracx.tasks.plumbing.locks.fencing import current_token
from diracx.tasks.plumbing.locks.keeper import HeldLocks, LockKeeper
from diracx.tasks.plumbing.registry.definition import check_definition
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from diracx.tasks.testing.lock_store import InMemoryLockStore


async def run_task(
    task: BaseTask,
    *,
    overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    lock_store: LockStore | None = None,
) -> Any:
    """Execute a task once in this process, with its dependencies injected and its locks held.

    The fields of the task go through the wire format first, as in production.

    Args:
        overrides: Callables that replace dependencies, e.g. `{LollygagDB.transaction: fake_transaction}`.
        lock_store: The store for the locks; None uses memory, for this execution only. Calls that share a store
            exclude each other.

    Returns:
        The value that `execute()` returned, after all dependencies have closed.

    Raises:
        TaskDefinitionError: The class is not a valid task.
        ResourceError: A database or setting that the task needs is not configured.
        UnableToAcquireLockError: One of the task's locks is held.
        Exception: The very exception that `execute()` or a dependency raised. The retry policy is not asked.
    """
    if isinstance(task, type):
        raise TaskDefinitionError(f"{task.__qualname__} is a class; give a task, run_task({task.__qualname__}(...))")
    check_definition(type(task))
    codec = FieldsCodec(type(task))
    decoded = codec.decode(codec.encode(task))
    resources = Resources(overrides)
    invocation = resources.prepare(type(task))
    store = lock_store if lock_store is not None else InMemoryLockStore()
    async with resources.opened(), _locked(decoded, store) as held:
        value = await invocation(decoded)
        if (error := unawaited(value)) is not None:
            raise error
    if held.lost is not None:
        raise held.lost
    return value


@asynccontextmanager
async def _locked(task: BaseTask, store: LockStore) -> AsyncIterator[HeldLocks]:
    executing = asyncio.current_task()
    assert executing is not None
    owner = LockOwner.new(task=type(task).__name__, id="run_task", worker="run_task")
    async with (
        LockKeeper(store) as keeper,
        keeper.hold(task.execution_locks, owner, executing.cancel) as held,
    ):
        current_token.set(held.token or FencingToken(0))
        yield held
