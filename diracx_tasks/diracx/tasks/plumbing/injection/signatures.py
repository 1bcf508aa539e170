"""Reads the signature of a callable: its parameters, their resolved annotations and their markers.

fast-depends could resolve annotations too, but it looks names up in the frames on the stack, fails on a return
annotation that nobody needs, and rewrites `Annotated` objects in place. So annotations are resolved here, one at a time
and in the callable's own module. An error then names the parameter.

FastAPI's markers are recognised by the name of their class, so fastapi is never imported.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.markers import Marker, WithoutTransaction

Entry = Callable[[AsyncExitStack], Awaitable[Any]]
"""Enters a dependency on the stack of an execution, and returns its value."""

_FOREIGN_MARKERS = {("fastapi.params", "Depends"), ("fast_depends.dependencies.model", "Dependant")}
_FOREIGN_REQUEST_PARTS = {("fastapi.params", "Param"), ("fastapi.params", "Body")}
_UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Parameter:
    """One named parameter of a callable."""

    name: str
    type: Any
    """The annotation without its metadata; `inspect.Parameter.empty`: there is none."""
    marker: Marker | WithoutTransaction | None
    optional: bool
    """The parameter has a default."""


def parameters_of(call: Callable[..., Any], where: str) -> list[Parameter]:
    """Read the parameters of a callable, without `*args` and `**kwargs`.

    Args:
        call: Any callable; a method must be bound.
        where: The name of the callable for people. The text of an error begins with it.

    Raises:
        TaskDefinitionError: The signature cannot be read, a name in an annotation is unknown, or a parameter has two
            markers, is positional-only, or comes from an HTTP request.
    """
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        hint = (
            "write `self` as its first parameter"
            if "invalid method signature" in str(error)
            else "wrap it in a function"
        )
        raise TaskDefinitionError(f"{where}: its parameters cannot be read ({error}); {hint}") from error
    namespace = namespace_of(call)
    named = [parameter for parameter in parameters if parameter.kind not in _UNNAMED]
    return [_parameter(parameter, namespace, f"{where}: parameter {parameter.name!r}") for parameter in named]


def namespace_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the global names that the annotations of a callable refer to."""
    call = _innermost(call)
    if not (inspect.isroutine(call) or inspect.isclass(call)):
        call = _innermost(type(call).__call__)
    if inspect.isclass(call):
        module = sys.modules.get(call.__module__)
        return getattr(call.__init__, "__globals__", vars(module) if module else {})
    return getattr(call, "__globals__", {})


def evaluated(annotation: Any, namespace: dict[str, Any]) -> Any:
    """Evaluate the texts in an annotation, and keep its metadata and `type` aliases.

    `inspect.Parameter.empty` is returned as it is.

    Raises:
        Exception: Any error of evaluating the annotation, mostly a NameError.
    """
    if annotation is inspect.Parameter.empty:
        return annotation
    carrier = types.FunctionType(evaluated.__code__, namespace)
    carrier.__annotations__ = {"parameter": annotation}
    return typing.get_type_hints(carrier, include_extras=True)["parameter"]


def unaliased(annotation: Any) -> Any:
    """Follow the aliases of PEP 695: `type LollygagDB = Annotated[...]`.

    Raises:
        Exception: Any error of evaluating an alias, mostly a NameError.
    """
    while type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    return annotation


def has_foreign_marker(candidates: typing.Iterable[Any]) -> bool:
    """Whether a marker of FastAPI or fast-depends is among the metadata or default of a parameter."""
    return any(_is_any(candidate, _FOREIGN_MARKERS) for candidate in candidates)


def is_coroutine(call: Callable[..., Any]) -> bool:
    """Whether a call returns a coroutine."""
    return _runs_as(call, inspect.iscoroutinefunction)


def is_generator(call: Callable[..., Any]) -> bool:
    """Whether a callable is a sync generator function."""
    return _runs_as(call, inspect.isgeneratorfunction)


def is_async_generator(call: Callable[..., Any]) -> bool:
    """Whether a callable is an async generator function."""
    return _runs_as(call, inspect.isasyncgenfunction)


def name_of(call: Any) -> str:
    """Return a short name of a callable for error texts."""
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    if inspect.ismethod(call) and isinstance(owner, type):
        # For an inherited classmethod, the class that it was taken from says more than the class that defines it.
        return f"{owner.__qualname__}.{call.__name__}"
    return getattr(call, "__qualname__", type(call).__qualname__)


def _innermost(call: Callable[..., Any]) -> Callable[..., Any]:
    """Look through partials, and through decorators that use `functools.wraps`."""
    while True:
        inner = call.func if isinstance(call, functools.partial) else getattr(call, "__wrapped__", call)
        if inner is call:
            return call
        call = inner


def _runs_as(call: Callable[..., Any], kind: Callable[[Any], bool]) -> bool:
    while isinstance(call, functools.partial):
        call = call.func
    if inspect.isclass(call):
        return False
    return kind(call) or kind(type(call).__call__)


def _parameter(parameter: inspect.Parameter, namespace: dict[str, Any], where: str) -> Parameter:
    annotation = _resolved_or_refused(parameter.annotation, namespace, where)
    default = parameter.default
    markers = list(_markers(getattr(annotation, "__metadata__", ())))
    if _is_any(default, _FOREIGN_REQUEST_PARTS):
        raise TaskDefinitionError(
            f"{where} comes from an HTTP request, and a task has none; give the callable an override"
        )
    markers += _markers([default])
    optional = default is not inspect.Parameter.empty
    if len(markers) > 1:
        raise TaskDefinitionError(f"{where} has {len(markers)} markers ({', '.join(map(str, markers))}); leave one")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and (markers or not optional):
        raise TaskDefinitionError(f"{where} is positional-only and cannot be injected; remove the `/`")
    bare = annotation.__origin__ if typing.get_origin(annotation) is Annotated else annotation
    return Parameter(parameter.name, bare, markers[0] if markers else None, optional)


def _resolved_or_refused(annotation: Any, namespace: dict[str, Any], where: str) -> Any:
    try:
        return unaliased(evaluated(annotation, namespace))
    except Exception as error:
        raise TaskDefinitionError(
            f"{where} has an annotation that cannot be resolved, {annotation!r} ({error}); "
            "define or import the name at the top of its module, outside `if TYPE_CHECKING:`"
        ) from error


def _markers(candidates: typing.Iterable[Any]) -> Iterator[Marker | WithoutTransaction]:
    found: list[Marker | WithoutTransaction] = []
    for candidate in candidates:
        if isinstance(candidate, Marker | WithoutTransaction):
            found.append(candidate)
        elif _is_any(candidate, _FOREIGN_MARKERS):
            found.append(Marker(candidate.dependency, candidate.use_cache))
    # `Annotated[LollygagDB, NoTransaction()]`, where LollygagDB is an alias that holds DBDepends already.
    declined = any(isinstance(marker, WithoutTransaction) for marker in found)
    return (m for m in found if not (declined and isinstance(m, Marker) and m.entered))


def _is_any(candidate: Any, names: typing.Container[tuple[str, str]]) -> bool:
    return any((cls.__module__, cls.__name__) in names for cls in type(candidate).__mro__)
