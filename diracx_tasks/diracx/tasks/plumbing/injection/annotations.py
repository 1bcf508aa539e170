"""Reading the annotation of one parameter, in the module of its callable.

One at a time, so that a name that nobody can resolve is told with its parameter, and a return annotation that nobody
needs does not matter.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from inspect import Parameter
from typing import Any


def namespace_of(call: Callable[..., Any]) -> dict[str, Any]:
    """The global names that the annotations of a callable refer to."""
    while isinstance(call, functools.partial):
        call = call.func
    if not (inspect.isroutine(call) or inspect.isclass(call)):
        call = type(call).__call__
    call = inspect.unwrap(call)
    if inspect.isclass(call):
        module = sys.modules.get(call.__module__)
        return getattr(call.__init__, "__globals__", vars(module) if module else {})
    return getattr(call, "__globals__", {})


def resolved(annotation: Any, namespace: dict[str, Any]) -> Any:
    """An annotation with its strings and `type` aliases resolved, metadata included; `Parameter.empty` stays.

    Raises:
        Exception: Whatever evaluating it raises, a NameError for the most part.
    """
    if annotation is Parameter.empty:
        return annotation
    carrier = types.FunctionType(resolved.__code__, namespace)
    carrier.__annotations__ = {"parameter": annotation}
    found = typing.get_type_hints(carrier, include_extras=True)["parameter"]
    # PEP 695: `type LollygagDB = Annotated[...]`.
    while type(found).__name__ == "TypeAliasType":
        found = found.__value__
    return found
