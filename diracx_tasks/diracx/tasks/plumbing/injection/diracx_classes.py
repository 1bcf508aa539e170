"""Recognises the classes of DiracX that a task may ask for, without importing diracx-core or diracx-db.

A subclass of `BaseSQLDB` can exist only where the module of `BaseSQLDB` is loaded. So `sys.modules` is enough to tell
whether a class is one.

A sentinel is a classmethod of such a class that stands for a value: `JobDB.transaction`, `JobParametersDB.session`,
`AuthSettings.create`, `ConfigSource.create`. Calling it gives nothing useful. The process that executes tasks replaces
it with a callable that gives the value.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from diracx.tasks.plumbing.injection.markers import Marker


class DiracxClass(Enum):
    """A family of DiracX classes: the module that makes its base class public, that class, and its sentinels."""

    SQL = ("diracx.db.sql.utils", "BaseSQLDB", ("transaction", "no_transaction"))
    OPENSEARCH = ("diracx.db.os.utils", "BaseOSDB", ("session",))
    SETTINGS = ("diracx.core.settings", "ServiceSettingsBase", ("create",))
    CONFIGURATION = ("diracx.core.config", "Config", ())
    CONFIGURATION_SOURCE = ("diracx.core.config", "ConfigSource", ("create",))

    @property
    def base(self) -> type | None:
        """The base class; None: no module has imported it."""
        found = getattr(sys.modules.get(self.value[0]), self.value[1], None)
        return found if isinstance(found, type) else None


DATABASES: Final = (DiracxClass.SQL, DiracxClass.OPENSEARCH)


@dataclass(frozen=True)
class Sentinel:
    """A classmethod that stands for a value."""

    family: DiracxClass
    owner: type
    name: str
    hollow: bool
    """Calling it gives nothing that can be injected: it must be replaced."""


def family_of(annotation: Any) -> DiracxClass | None:
    """Return the family of DiracX classes that a class belongs to; None for anything else."""
    if not isinstance(annotation, type):
        return None
    return next(
        (family for family in DiracxClass if (base := family.base) is not None and issubclass(annotation, base)), None
    )


def sentinel_of(call: Any) -> Sentinel | None:
    """Return the sentinel that a bound classmethod is. None for any other callable, e.g. a subclass's own method."""
    owner, name = getattr(call, "__self__", None), getattr(call, "__name__", "")
    family = family_of(owner)
    if family is None or owner is None or name not in family.value[2]:
        return None
    inherited = call.__func__ is getattr(family.base, name).__func__
    if family in DATABASES and not inherited:
        # A subclass that defines its own `transaction` or `session` means it: that is no sentinel.
        return None
    return Sentinel(family, owner, name, hollow=inherited or family is DiracxClass.CONFIGURATION_SOURCE)


def implicit_marker(annotation: Any) -> Marker | None:
    """Return the marker that a bare class of DiracX stands for; None for any other annotation."""
    match family_of(annotation):
        case DiracxClass.SQL:
            return Marker(annotation.transaction, entered=True)
        case DiracxClass.OPENSEARCH:
            return Marker(annotation.session, entered=True)
        case DiracxClass.SETTINGS:
            return Marker(annotation.create)
        case DiracxClass.CONFIGURATION:
            # The package that defines Config also defines ConfigSource.
            return Marker(DiracxClass.CONFIGURATION_SOURCE.base.create)  # type: ignore[union-attr]
    return None
