"""`auto_inject` makes a callable that is written for tasks readable for FastAPI.

FastAPI knows only its own markers, and takes a bare `db: JobDB` for a part of the request. The injector of tasks needs
no such help: it reads bare classes, and the markers of both.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, Signature
from types import NoneType
from typing import Annotated, Any, Final, TypeVar, get_origin

from diracx.tasks.plumbing.injection.diracx_classes import DATABASES, implicit_marker, sentinel_of
from diracx.tasks.plumbing.injection.markers import Marker, WithoutTransaction
from diracx.tasks.plumbing.injection.signatures import (
    evaluated,
    has_foreign_marker,
    is_async_generator,
    is_generator,
    name_of,
    namespace_of,
    unaliased,
)

C = TypeVar("C", bound=Callable[..., Any])

_FASTAPI: Final = "fastapi"
_WITH_SCOPES: Final = "0.121"
"""The first FastAPI whose `Depends` has a `scope`."""

_ANNOTATIONLIB: Final = "annotationlib"
_LENIENT: Final[dict[str, Any]] = (
    {"annotation_format": import_module(_ANNOTATIONLIB).Format.FORWARDREF} if sys.version_info >= (3, 14) else {}
)
"""From Python 3.14 on, a signature is an error if one of its names is known to type checkers only; not with this."""


def auto_inject(call: C) -> C:
    """Give a callable a signature in which every injected parameter has FastAPI's marker.

    A decorator for dependencies that web routes and tasks share, and for the endpoints of a router:

        @auto_inject
        async def may_submit(job_db: JobDB, config: Config, settings: AuthSettings) -> bool: ...

    `auto_inject_depends` says what becomes of each parameter. Annotations that are texts are evaluated in the module of
    the callable, the return annotation too: FastAPI finds no module for a partial. A name that is not defined there,
    e.g. one that only type checkers see, is left as it is, and FastAPI reports it if it needs it.

    A second call changes nothing. Without FastAPI the markers are this package's. The application has to override
    `JobDB.transaction` and its like, as diracx-routers does.

    Returns:
        The same object with another signature. For one that takes no attributes, e.g. a bound method, a partial of it.

    Raises:
        ImportError: The installed FastAPI is too old.
    """
    signature = inspect.signature(call, **_LENIENT)
    namespace = namespace_of(call)
    given = list(signature.parameters.values())
    marked = auto_inject_depends([_read(parameter, namespace) for parameter in given])
    returned = _evaluated(signature.return_annotation, namespace)
    if returned is signature.return_annotation and all(map(lambda new, old: new is old, marked, given)):
        return call
    return _with_signature(call, signature.replace(parameters=marked, return_annotation=returned))


def auto_inject_depends(params: Iterable[Parameter]) -> list[Parameter]:
    """Return the parameters of a signature, with FastAPI's marker on each that is injected.

    | Annotation | Becomes |
    |---|---|
    | a `BaseSQLDB` class | `Annotated[JobDB, Depends(JobDB.transaction, scope="function")]` |
    | `NoTransaction[JobDB]` | the same with `.no_transaction` |
    | a `BaseOSDB` class | the same with `.session` |
    | a `ServiceSettingsBase` class | `Annotated[AuthSettings, Depends(AuthSettings.create)]` |
    | the DiracX `Config` | the same with `ConfigSource.create` |
    | `Depends`, `DBDepends` of this package | FastAPI's `Depends`; with `scope="function"` if it opens something |
    | anything else, also a text | stays as it is |

    The scope `function` makes FastAPI close a dependency before it answers, as a task closes it before it counts as
    done: a commit that fails is an error of the request. By itself FastAPI answers first. A generator with FastAPI's
    own marker needs `Depends(generator, scope="function")` if it asks for a database: FastAPI lets nothing that it
    closes late rest on what it closes early.

    Raises:
        ImportError: The installed FastAPI is too old: its `Depends` has no `scope`. Without one, the client would have
            a success before the commit, and nobody would see the commit fail.
    """
    if callable(params):
        raise TypeError(
            f"auto_inject_depends takes the parameters of a signature; for a callable, write "
            f"Depends(auto_inject({name_of(params)}))"
        )
    return [_marked(parameter) for parameter in params]


def marker_for_both(marker: Marker) -> Any:
    """Return FastAPI's marker that means the same, which tasks read too. Without FastAPI, the marker itself.

    FastAPI is imported on demand, so that most tasks do not pay for it.

    Raises:
        ImportError: The installed FastAPI is too old for this marker.
    """
    if find_spec(_FASTAPI) is None:
        return marker
    fastapi: Any = import_module(_FASTAPI)
    if not _opens_something(marker):
        return fastapi.Depends(marker.dependency, use_cache=marker.use_cache)
    try:
        return fastapi.Depends(marker.dependency, use_cache=marker.use_cache, scope="function")
    except TypeError as error:
        raise ImportError(
            f"FastAPI {fastapi.__version__} would answer before {name_of(marker.dependency)}() commits; install "
            f"a newer one: pip install 'fastapi>={_WITH_SCOPES}'",
            name=_FASTAPI,
        ) from error


def _opens_something(marker: Marker) -> bool:
    call = marker.dependency
    if call is None:
        return False
    if marker.entered or is_generator(call) or is_async_generator(call):
        return True
    sentinel = sentinel_of(call)
    return sentinel is not None and sentinel.family in DATABASES


def _read(parameter: Parameter, namespace: dict[str, Any]) -> Parameter:
    annotation = _evaluated(parameter.annotation, namespace)
    return parameter if annotation is parameter.annotation else parameter.replace(annotation=annotation)


def _evaluated(annotation: Any, namespace: dict[str, Any]) -> Any:
    try:
        found = evaluated(annotation, namespace)
    except Exception:  # FastAPI reports it itself, and it may be nothing that FastAPI needs
        return annotation
    # FastAPI takes the class for a type that an answer contains, and None for an answer without content.
    found = None if found is NoneType else found
    return annotation if found == annotation else found


def _marked(parameter: Parameter) -> Parameter:
    if isinstance(parameter.default, Marker):
        return parameter.replace(default=marker_for_both(parameter.default))
    try:
        annotation = unaliased(parameter.annotation)
    except Exception:  # as in `_evaluated`
        return parameter
    origin, *metadata = (
        (annotation.__origin__, *annotation.__metadata__) if get_origin(annotation) is Annotated else (annotation,)
    )
    kept = tuple(found for found in metadata if not isinstance(found, Marker | WithoutTransaction))
    if any(isinstance(found, WithoutTransaction) for found in metadata):
        marker: Marker | None = Marker(origin.no_transaction)
    else:
        marker = next((found for found in metadata if isinstance(found, Marker)), None)
        if marker is None and not has_foreign_marker([*metadata, parameter.default]):
            marker = implicit_marker(origin)
    if marker is None:
        return parameter
    return parameter.replace(annotation=Annotated[(origin, *kept, marker_for_both(marker))])


def _with_signature(call: C, signature: Signature) -> C:
    target: Any = call
    if inspect.isclass(call) and isinstance(call.__init__, types.FunctionType):
        # A `__signature__` of the class would be that of its subclasses and instances too.
        own, *rest = inspect.signature(call.__init__).parameters.values()
        if [parameter.name for parameter in rest] == list(signature.parameters):
            target = call.__init__
            signature = signature.replace(parameters=[own, *signature.parameters.values()])
    try:
        target.__signature__ = signature
    except (AttributeError, TypeError, ValueError):  # a bound method, a frozen object, a pydantic model
        target = functools.update_wrapper(functools.partial(call), call)
        target.__signature__ = signature
        return target  # type: ignore[no-any-return]
    return call
