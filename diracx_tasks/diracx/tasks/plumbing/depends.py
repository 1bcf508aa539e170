"""How `execute()` asks for what it needs. The rules are FastAPI's, whose own markers are honoured too.

    LollygagDB = Annotated[_LollygagDB, DBDepends(_LollygagDB.transaction)]

    async def execute(self, lollygag_db: LollygagDB, limits: Annotated[Limits, Depends(load)], **kwargs):
        ...

A dependency is any callable: a function, a coroutine function, a generator or async generator function with
one `yield`, a class, a bound method. Its own parameters are injected by the same rules, as deep as they go.
One execution calls each callable once and shares the value, unless `use_cache=False`. A parameter without a
marker keeps its default, `*args` and `**kwargs` receive nothing, and a parameter that nothing can fill is
refused when the task is prepared. Values are injected as they are, never validated or converted.

Generators close in reverse order when `execute()` has ended. What it raised, a cancellation included, is
raised at their `yield`, so a transaction rolls back; a generator that swallows it does not turn the failure
into a success. One that fails after its `yield` (a commit) makes the execution fail with that error.

Set-up, `execute()` and closing run in one context, so a ContextVar that an async dependency sets is seen by
the task. Sync callables and sync generators of `Depends` run in a thread, on a copy of that context; those
of `DBDepends` run in place.

Classes of DiracX need no marker (extra `diracx`): `db: LollygagDB` of a `BaseSQLDB` class is a transaction,
`parameters: JobParametersDB` of a `BaseOSDB` class its session, a `ServiceSettingsBase` class its settings, and
`config: Config` the configuration as it stands when the task begins. Also here, and made when they are asked for:

    Config                        Annotated[Config, Depends(ConfigSource.create)]
    AvailableSecurityProperties   the set of all security properties that DiracX and its extensions define

This module imports no engine, so that a producer of tasks stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

from diracx.tasks.plumbing.injection.auto_injection import auto_inject, auto_inject_depends
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

# The modules of diracx-core. What stands in them is not in `__all__`: a star import has to work without diracx-core.
_OF_DIRACX_CORE: Final = {
    "Config": "diracx.core.config",
    "AvailableSecurityProperties": "diracx.core.properties",
}


def __getattr__(name: str) -> Any:
    if name not in _OF_DIRACX_CORE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    where = _OF_DIRACX_CORE[name]
    try:
        core: Any = import_module(where)
    except ModuleNotFoundError as error:
        if not where.startswith(error.name or "-"):
            raise
        raise ImportError(f"{name} needs diracx-core: pip install 'diracx-tasks[diracx]'", name=where) from error
    if name == "Config":
        return Annotated[core.Config, Depends(core.ConfigSource.create)]
    return Annotated[set[core.SecurityProperty], Depends(core.SecurityProperty.available_properties)]
