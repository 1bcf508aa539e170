"""What a callable asks for: its parameters, with annotations resolved and markers found.

Annotations are resolved here, one at a time and in the callable's own module, rather than by fast-depends:
it would look names up in whatever frames are on the stack, fail on a return annotation that nobody needs,
and rewrite `Annotated` objects in place. FastAPI's markers are known by their class's name, so fastapi is
never imported.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.annotations import namespace_of, resolved
from diracx.tasks.plumbing.injection.markers import Marker, WithoutTransaction

_FOREIGN_MARKERS = {("fastapi.params", "Depends"), ("fast_depends.dependencies.model", "Dependant")}
_FOREIGN_REQUEST_PARTS = {("fastapi.params", "Param"), ("fastapi.params", "Body")}
_UNNAMED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Asked:
    """One named parameter."""

    name: str
    type: Any
    """Its annotation without metadata; `Parameter.empty` when it has none."""
    marker: Marker | WithoutTransaction | None
    optional: bool
    """It has a default."""


def asked_by(call: Callable[..., Any], where: str) -> list[Asked]:
    """Read the parameters of a callable; `*args` and `**kwargs` are left out.

    Args:
        call: Anything callable; a method must be bound.
        where: What a person knows it by; opens the error's text.

    Raises:
        TaskDefinitionError: The signature cannot be read, a name in an annotation is unknown, or a parameter
            has two markers, is positional-only, or takes a part of an HTTP request.
    """
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise TaskDefinitionError(f"{where}: its parameters cannot be read ({error}); wrap it in a function") from error
    namespace = namespace_of(call)
    named = [parameter for parameter in parameters if parameter.kind not in _UNNAMED]
    return [_asked(parameter, namespace, f"{where}: parameter {parameter.name!r}") for parameter in named]


def is_coroutine(call: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return _runs_as(call, inspect.iscoroutinefunction)


def is_generator(call: Callable[..., Any]) -> bool:
    """Whether it is a sync generator function."""
    return _runs_as(call, inspect.isgeneratorfunction)


def is_async_generator(call: Callable[..., Any]) -> bool:
    """Whether it is an async generator function."""
    return _runs_as(call, inspect.isasyncgenfunction)


def name_of(call: Any) -> str:
    """A short name for people."""
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    if inspect.ismethod(call) and isinstance(owner, type):
        # An inherited classmethod: the class that it was taken from says more than the one that defines it.
        return f"{owner.__qualname__}.{call.__name__}"
    return getattr(call, "__qualname__", type(call).__qualname__)


def _runs_as(call: Callable[..., Any], kind: Callable[[Any], bool]) -> bool:
    while isinstance(call, functools.partial):
        call = call.func
    if inspect.isclass(call):
        return False
    return kind(call) or kind(type(call).__call__)


def _asked(parameter: Parameter, namespace: dict[str, Any], where: str) -> Asked:
    annotation = _resolved(parameter.annotation, namespace, where)
    default = parameter.default
    markers = list(_markers(getattr(annotation, "__metadata__", ())))
    if _is_any(default, _FOREIGN_REQUEST_PARTS):
        raise TaskDefinitionError(
            f"{where} comes from an HTTP request, and a task has none; give the callable an override"
        )
    markers += _markers([default])
    optional = default is not Parameter.empty
    if len(markers) > 1:
        raise TaskDefinitionError(f"{where} has {len(markers)} markers ({', '.join(map(str, markers))}); leave one")
    if parameter.kind is Parameter.POSITIONAL_ONLY and (markers or not optional):
        raise TaskDefinitionError(f"{where} is positional-only and cannot be injected; remove the `/`")
    bare = annotation.__origin__ if typing.get_origin(annotation) is Annotated else annotation
    return Asked(parameter.name, bare, markers[0] if markers else None, optional)


def _resolved(annotation: Any, namespace: dict[str, Any], where: str) -> Any:
    try:
        return resolved(annotation, namespace)
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
