"""The parameters of `execute()`: a task asks for its dependencies by annotation, and each execution gets them injected.

The rules are FastAPI's, and FastAPI's own markers are honoured too.

    from typing import Annotated
    from diracx.tasks.plumbing.depends import DBDepends, Depends

    LollygagDB = Annotated[_LollygagDB, DBDepends(_LollygagDB.transaction)]

    async def load_limits(db: LollygagDB) -> Limits: ...

    @dataclasses.dataclass
    class SyncOwnersTask(BaseTask):
        async def execute(self, db: LollygagDB, limits: Annotated[Limits, Depends(load_limits)]):
            ...  # `db` is the same transaction here and in `load_limits`

Parameters:

| Annotation | Injected value |
|---|---|
| `Annotated[T, Depends(callable)]` | the value that the callable returns or yields |
| `Annotated[DB, DBDepends(DB.transaction)]` | a database in a transaction |
| `NoTransaction[DB]` | a database without a transaction, for long tasks that open their own |
| `FencingToken` (of `plumbing.locks`) | the token that fences the task's writes |
| `CallbackSpawner` | spawns a group of tasks, and the task that runs after the last of them |
| `GroupOutcomes` (of `plumbing.callbacks`) | what became of the group whose callback this is |
| a bare class on `BaseSQLDB` | a database in a transaction, as with `DBDepends` |
| a bare class on `BaseOSDB` | an OpenSearch database in a session |
| a bare class on `ServiceSettingsBase` | settings, read from the environment once |
| the bare DiracX `Config` | the configuration as it is when the task begins |
| none of these, with a default | the default |

Classes of DiracX need the extra `diracx`. `*args` and `**kwargs` receive nothing. A parameter that nothing can fill is
refused when the task is prepared, before anything runs. Values are never validated or converted.

Dependencies:

* A dependency is any callable: a function, a coroutine function, a generator or async generator function with one
  `yield`, a class, or a bound method. Its own parameters are injected by the same rules, at any depth.
* One execution calls each callable once and shares the value, unless the marker says `use_cache=False`.
* Sync callables and sync generators of `Depends` run in a thread, on a copy of the context. Those of `DBDepends` run
  on the event loop's thread.
* Dependencies, `execute()` and closing run in one context: the task sees a ContextVar that an async dependency sets.

Closing: generators close in reverse order when `execute()` has ended.

* An exception of `execute()`, a cancellation included, is raised at their `yield`, so a transaction rolls back.
* A generator that swallows the exception does not turn the failure into a success.
* A generator that fails after its `yield` (a commit) makes the execution fail with that error.

Two ready-made annotations, for tasks and for routes of FastAPI alike. They import diracx-core, and FastAPI if it is
installed, when they are first used:

    Config                        Annotated[Config, Depends(ConfigSource.create)]
    AvailableSecurityProperties   the set of all security properties that DiracX and its extensions define

This module does not import the injection engine, so that a process that only submits tasks stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

from diracx.tasks.plumbing.injection.auto_injection import auto_inject, auto_inject_depends, marker_for_both
from diracx.tasks.plumbing.injection.markers import (
    CallbackSpawner,
    DBDepends,
    Depends,
    Marker,
    NoTransaction,
    WithoutTransaction,
)

__all__ = [
    "CallbackSpawner",
    "DBDepends",
    "Depends",
    "Marker",
    "NoTransaction",
    "WithoutTransaction",
    "auto_inject",
    "auto_inject_depends",
]

# The modules of diracx-core that hold these names. They are not in `__all__`: a star import must work without
# diracx-core.
_FROM_DIRACX_CORE: Final = {
    "Config": "diracx.core.config",
    "AvailableSecurityProperties": "diracx.core.properties",
}


def __getattr__(name: str) -> Any:
    if name not in _FROM_DIRACX_CORE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = _FROM_DIRACX_CORE[name]
    try:
        core: Any = import_module(where)
    except ModuleNotFoundError as error:
        if not where.startswith(error.name or "-"):
            raise
        raise ImportError(f"{name} needs diracx-core: pip install 'diracx-tasks[diracx]'", name=where) from error
    # FastAPI's marker where it is installed: a route takes the name as it is, and a task understands it.
    if name == "Config":
        return Annotated[core.Config, marker_for_both(Marker(core.ConfigSource.create))]
    return Annotated[set[core.SecurityProperty], marker_for_both(Marker(core.SecurityProperty.available_properties))]
