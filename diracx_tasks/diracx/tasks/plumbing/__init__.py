"""The machinery of DiracX tasks. Imports point one way, see Layers in the architecture page.

Other DiracX packages (diracx-routers 0.7) import the markers for FastAPI's parameters from here: they stand in
`depends`, which is imported when one of them is asked for, and not by what needs none of them.
"""

from importlib import import_module
from typing import Any, Final

_OF_DEPENDS: Final = frozenset(
    {
        "AvailableSecurityProperties",
        "CallbackSpawner",
        "Config",
        "NoTransaction",
        "auto_inject",
        "auto_inject_depends",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _OF_DEPENDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("diracx.tasks.plumbing.depends"), name)
