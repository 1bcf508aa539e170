"""The machinery of DiracX tasks: a package for each question, with imports that point one way.

diracx-routers 0.7 imports some names of `depends` from here. They are served on demand, so that nothing else pays for
them.
"""

from importlib import import_module
from typing import Any, Final

_SERVED_FROM_DEPENDS: Final = frozenset(
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
    if name not in _SERVED_FROM_DEPENDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("diracx.tasks.plumbing.depends"), name)
