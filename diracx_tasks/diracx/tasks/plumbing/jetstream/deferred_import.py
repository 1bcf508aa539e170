"""Keeps `import nats` from loading aiohttp, which nats-py needs for `ws://` and `wss://` servers only.

DiracX installs aiohttp (diracx-db asks for `opensearch-py[async]`), and nats-py imports it where it is installed. That
is a quarter to a third of the time that a command or a worker takes to start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def deferred_import(name: str) -> Iterator[None]:
    """Let `import` statements within the block bind a stand-in, which imports the module when it is first used.

    A module that is loaded already, or is not installed, is left as it is. Afterwards other code imports the module as
    usual. Code of another thread that imports it meanwhile may get the stand-in too, which serves it the same.

    Args:
        name: A module at the top level.
    """
    if name in sys.modules or find_spec(name) is None:
        yield
        return
    stand_in = _StandIn(name)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        _step_aside(stand_in)


class _StandIn(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        _step_aside(self)
        return getattr(import_module(self.__name__), attribute)


def _step_aside(stand_in: ModuleType) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]
