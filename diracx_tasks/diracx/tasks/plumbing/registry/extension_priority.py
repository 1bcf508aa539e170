"""Which of two extensions DiracX itself prefers, where diracx-core is installed to say so."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any, Final

_EXTENSIONS: Final = "diracx.core.extensions"


def diracx_rank(entry_point: EntryPoint) -> int:
    """How important diracx-core holds an entry point among those of its name: the more, the higher.

    0 for all without diracx-core, and for what belongs to no extension that it knows: one says
    `extension = "<its package>"` under `[project.entry-points."diracx"]`.
    """
    if (extensions := _extensions()) is None or extension_problem():
        return 0
    # The most important first.
    known = extensions.select_from_extension(group=entry_point.group, name=entry_point.name)
    values = [found.value for found in known]
    return len(values) - values.index(entry_point.value) if entry_point.value in values else 0


def extension_problem() -> str | None:
    """Why diracx-core cannot tell extensions apart, and the mend; None where it can, or is not installed."""
    if (extensions := _extensions()) is None:
        return None
    try:
        extensions.extensions_by_priority()
    except NotImplementedError as error:
        return (
            f"DiracX allows one extension in an environment ({error}); uninstall all but one, or give each a virtual "
            "environment of its own"
        )
    return None


def _extensions() -> Any:
    try:
        return import_module(_EXTENSIONS)
    except ModuleNotFoundError as error:
        if not _EXTENSIONS.startswith(error.name or "-"):
            raise
        return None
