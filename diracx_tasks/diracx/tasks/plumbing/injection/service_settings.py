"""Settings on diracx-core's `ServiceSettingsBase`: read from the environment once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.injection.diracx_classes import Kind
from diracx.tasks.plumbing.injection.resource import Resource, phrase


class Settings(Resource[Any]):
    """The settings of one class, and what its `lifetime_function` keeps open.

    Args:
        asked: The class; its own `create` makes the instance where it has one, else its constructor does.
    """

    def __init__(self, asked: Any) -> None:
        super().__init__(asked.__name__)
        self._asked = asked

    def problems(self) -> list[str]:
        """A phrase for each variable that is missing or wrong."""
        try:
            self._made()
        except Exception as error:  # an author's `create` may raise anything
            listed = getattr(error, "errors", None)
            if not callable(listed):
                return [phrase(error)]
            found = listed(include_url=False, include_input=False, include_context=False)
            return [f"set {self._variable(each['loc'])} ({each['msg']})" for each in found]
        return []

    def served(self) -> dict[str, Callable[..., Any]]:
        """The one instance."""

        async def create() -> Any:
            return self.value

        return {"create": create}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read them, and enter their `lifetime_function`."""
        settings = self._made()
        async with settings.lifetime_function(), self.holding(settings):
            yield

    def _made(self) -> Any:
        base: Any = Kind.SETTINGS.base
        inherited = self._asked.create.__func__ is base.create.__func__
        return self._asked() if inherited else self._asked.create()

    def _variable(self, location: tuple[Any, ...]) -> str:
        name = str(location[0]) if location else "its variables"
        if name not in self._asked.model_fields:
            return name.upper()  # an alias is the whole name
        return f"{self._asked.model_config.get('env_prefix', '')}{name}".upper()
