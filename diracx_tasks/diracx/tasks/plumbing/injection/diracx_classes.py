"""The classes of DiracX that a task may ask for, known without importing diracx-core or diracx-db.

A subclass of `BaseSQLDB` can only exist where the module of `BaseSQLDB` is loaded already, so `sys.modules` answers
whether a class is one. Classmethods that only stand for a value (`JobDB.transaction`, `JobParametersDB.session`,
`AuthSettings.create`, `ConfigSource.create`) are called sentinels here: whoever executes puts a callable in their
place.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from diracx.tasks.plumbing.injection.markers import Marker


class Kind(Enum):
    """What a class of DiracX is: the module that makes its base class public, that class, and its sentinels."""

    SQL = ("diracx.db.sql.utils", "BaseSQLDB", ("transaction", "no_transaction"))
    OPENSEARCH = ("diracx.db.os.utils", "BaseOSDB", ("session",))
    SETTINGS = ("diracx.core.settings", "ServiceSettingsBase", ("create",))
    CONFIGURATION = ("diracx.core.config", "Config", ())
    CONFIGURATION_SOURCE = ("diracx.core.config", "ConfigSource", ("create",))

    @property
    def base(self) -> type | None:
        """The base class, where something has imported it."""
        found = getattr(sys.modules.get(self.value[0]), self.value[1], None)
        return found if isinstance(found, type) else None


# Their own `transaction` or `session`, where a subclass defines one, does what it says.
_REPLACEABLE: Final = (Kind.SQL, Kind.OPENSEARCH)


@dataclass(frozen=True)
class Sentinel:
    """A classmethod that stands for a value."""

    kind: Kind
    owner: type
    name: str
    hollow: bool
    """Calling it gives nothing that could be injected."""


def kind_of(annotation: Any) -> Kind | None:
    """What kind of class of DiracX it is; None for anything else."""
    if not isinstance(annotation, type):
        return None
    return next((kind for kind in Kind if (base := kind.base) is not None and issubclass(annotation, base)), None)


def sentinel_of(call: Any) -> Sentinel | None:
    """The sentinel that a bound classmethod is; None for any other callable, as for a subclass's own `transaction`."""
    owner, name = getattr(call, "__self__", None), getattr(call, "__name__", "")
    kind = kind_of(owner)
    if kind is None or owner is None or name not in kind.value[2]:
        return None
    inherited = call.__func__ is getattr(kind.base, name).__func__
    if kind in _REPLACEABLE and not inherited:
        return None
    return Sentinel(kind, owner, name, hollow=inherited or kind is Kind.CONFIGURATION_SOURCE)


def bare_marker(annotation: Any) -> Marker | None:
    """What a parameter means that has a class of DiracX for its annotation and nothing else; None: not one of those."""
    match kind_of(annotation):
        case Kind.SQL:
            return Marker(annotation.transaction, entered=True)
        case Kind.OPENSEARCH:
            return Marker(annotation.session, entered=True)
        case Kind.SETTINGS:
            return Marker(annotation.create)
        case Kind.CONFIGURATION:
            # The package that defines Config defines ConfigSource.
            return Marker(Kind.CONFIGURATION_SOURCE.base.create)  # type: ignore[union-attr]
    return None
