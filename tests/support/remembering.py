"""How much an object remembers: the entries of all containers that belong to it."""

from __future__ import annotations

import types
from collections import deque
from typing import Any

_OTHERS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, str, bytes, int, float)
_CONTAINERS = (dict, set, frozenset, list, tuple, deque)


def remembered(owner: object) -> int:
    """Count the entries of the containers within `owner`, and within what it has of this project."""
    seen: set[int] = set()
    ahead: list[Any] = [owner]
    count = 0
    while ahead:
        each = ahead.pop()
        if id(each) in seen or isinstance(each, _OTHERS):
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            count += len(each)
            ahead += [*each.keys(), *each.values()]
        elif isinstance(each, _CONTAINERS):
            count += len(each)
            ahead += each
        elif type(each).__module__.startswith("diracx.tasks"):
            slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
            ahead += [getattr(each, name, None) for name in slots]
            ahead += getattr(each, "__dict__", {}).values()
    return count
