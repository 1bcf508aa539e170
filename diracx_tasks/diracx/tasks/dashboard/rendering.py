"""The templates: everything that they write is made visible and escaped, and a name that is not there is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diracx.tasks.dashboard import plots, words
from diracx.tasks.dashboard.pages import Page

TEMPLATES: Final = Path(__file__).with_name("templates")


class Renderer:
    """Makes the html of pages and of their parts.

    Args:
        root_path: Stands before each path of this site.
        shared: The variables that all templates have.
    """

    def __init__(self, root_path: str, shared: Mapping[str, Any]) -> None:
        self._root = root_path
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=words.visible,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        filters = (
            words.brief,
            words.sentence,
            words.count,
            words.duration,
            words.coarse,
            words.age,
            words.rate,
            words.size,
            words.moment,
            words.clock,
        )
        self._environment.filters.update({each.__name__: each for each in filters})
        self._environment.globals.update(shared, url=self.url, plural=words.plural, NOTHING=words.NOTHING)
        self._environment.globals.update(meter=plots.meter)

    def url(self, path: str, **query: object) -> str:
        """The address of a path of this site, e.g. `url("/task", id=task.id)`. A parameter that is None is left out."""
        text = urlencode({name: str(value) for name, value in query.items() if value is not None})
        return f"{self._root}{path}" + (f"?{text}" if text else "")

    def render(self, template: str, /, **variables: Any) -> Markup:
        """One template."""
        made = self._environment.get_template(template).render(variables)
        return Markup(made)  # noqa: S704  # the template has escaped what it wrote

    def parts(self, page: Page, variables: Mapping[str, Any]) -> dict[str, Markup]:
        """The parts of a page by their names, as html without the element around them."""
        return {name: self.render(f"{page.name}/{name}.html", **variables) for name in page.parts}

    def page(self, page: Page, parts: Mapping[str, str], variables: Mapping[str, Any]) -> str:
        """A whole page."""
        return self.render(f"{page.name}/page.html", **variables, parts=parts)
