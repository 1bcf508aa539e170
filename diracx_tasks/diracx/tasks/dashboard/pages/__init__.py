"""The pages. Each module makes of the facts what the templates in the folder of its name take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard.mesh import Mesh

View = Mapping[str, Any]
"""The variables of the templates of a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page."""

    name: str
    """Also the folder of its templates: `page.html`, and one file for each part."""
    path: str
    title: str
    parts: tuple[str, ...]
    """The parts that are kept up while somebody looks."""
    view: Callable[[Mesh, QueryParams], Awaitable[View]]
    """Makes the variables. It fails as the plumbing does; `QueryParams` are what the viewer typed or chose."""
    query: tuple[str, ...] = ()
    """The names of the parameters that it reads; others do not count."""
    in_navigation: bool = True
    within: str = ""
    """The name of the page to which it belongs, if it is not in the navigation itself."""
    every: float = 2.0
    """Seconds between two readings."""
