"""`auto_inject` makes a callable that is written for tasks readable for FastAPI.

FastAPI knows only its own markers, and takes a bare `db: JobDB` for a part of the request. The injector of tasks needs
no such help: it reads bare classes, and the markers of both.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter
from typing import Annotated, Any, Final, TypeVar, get_origin

from diracx.tasks.plumbing.injection.diracx_classes import implicit_marker
from diracx.tasks.plumbing.injection.markers import Depends, Marker, WithoutTransaction
from diracx.tasks.plumbing.injection.signatures import namespace_of, resolved

C = TypeVar("C", bound=Callable[..., Any])

_FASTAPI: Final = "fastapi"


def auto_inject(call: C) -> C:
    """Give a callable a signature in which every injected parameter has FastAPI's marker.

    A decorator for dependencies that web routes and tasks share, and for the endpoints of a router:

        @auto_inject
        async def may_submit(job_db: JobDB, config: Config, settings: AuthSettings) -> bool: ...

    | Annotation | Becomes |
    |---|---|
    | a `BaseSQLDB` class | `Annotated[JobDB, Depends(JobDB.transaction)]` |
    | a `BaseOSDB` class | the same with `.session` |
    | a `ServiceSettingsBase` class | the same with `.create` |
    | the DiracX `Config` | the same with `ConfigSource.create` |
    | `NoTransaction[JobDB]` | the same with `.no_transaction` |
    | `Depends`, `DBDepends` of this package | FastAPI's `Depends` |
    | anything else | stays as it is |

    A second call changes nothing. Without FastAPI the markers are this package's. The application has to override
    `JobDB.transaction` and its like, as diracx-routers does.

    Returns:
        The same object with `__signature__` set. For a bound method, which takes no attributes, a partial of it.
    """
    depends = _depends()
    signature = inspect.signature(call)
    namespace = namespace_of(call)
    parameters = [_marked(parameter, namespace, depends) for parameter in signature.parameters.values()]
    if parameters == list(signature.parameters.values()):
        return call
    marked: Any = call
    if inspect.ismethod(call):
        marked = functools.partial(call)
    marked.__signature__ = signature.replace(parameters=parameters)
    return marked  # type: ignore[no-any-return]


def auto_inject_depends(dependency: Callable[..., Any], *, use_cache: bool = True) -> Any:
    """Return `Depends(auto_inject(dependency))`, the marker for a callable whose own parameters are bare classes.

    Raises:
        TypeError: `dependency` is not callable.
    """
    return Depends(auto_inject(dependency), use_cache=use_cache)


def _depends() -> Any:
    """Return FastAPI's `Depends` if FastAPI is installed. Imported on demand, so that tasks do not pay for it."""
    try:
        return import_module(_FASTAPI).Depends
    except ModuleNotFoundError as error:
        if error.name != _FASTAPI:
            raise
        return Depends


def _marked(parameter: Parameter, namespace: dict[str, Any], depends: Any) -> Parameter:
    if isinstance(parameter.default, Marker):
        return parameter.replace(default=_translated(parameter.default, depends))
    try:
        annotation = resolved(parameter.annotation, namespace)
    except Exception:  # FastAPI reports it itself, and it may be nothing to inject
        return parameter
    origin, *metadata = (
        (annotation.__origin__, *annotation.__metadata__) if get_origin(annotation) is Annotated else (annotation,)
    )
    kept = tuple(found for found in metadata if not isinstance(found, Marker | WithoutTransaction))
    if any(isinstance(found, WithoutTransaction) for found in metadata):
        marker: Marker | None = Marker(origin.no_transaction)
    else:
        marker = next((found for found in metadata if isinstance(found, Marker)), None)
        if marker is None and not any(hasattr(found, "dependency") for found in metadata):
            marker = implicit_marker(origin)
    if marker is None:
        return parameter
    return parameter.replace(annotation=Annotated[(origin, *kept, _translated(marker, depends))])


def _translated(marker: Marker, depends: Any) -> Any:
    return depends(marker.dependency, use_cache=marker.use_cache)
