"""Settings on diracx-core's `ServiceSettingsBase`, read from the environment when they are opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.injection.diracx_classes import DiracxClass
from diracx.tasks.plumbing.injection.resource import Resource, one_line, validation_errors


class ServiceSettings(Resource[Any]):
    """The settings of one class, an instance for each event loop: its `lifetime_function` may open clients.

    The `lifetime_function` is entered while the settings are open.

    Args:
        settings_class: The class. Its own `create` makes the instance; without one, its constructor does.
    """

    def __init__(self, settings_class: Any) -> None:
        super().__init__(settings_class.__name__)
        self._class = settings_class

    def problems(self) -> list[str]:
        """Report each variable that is missing or wrong."""
        return self._problems(only_unset=False)

    def unset(self) -> list[str]:
        """Report each variable that is not set. A wrong one may name a file that comes later."""
        return self._problems(only_unset=True)

    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the instance of the running loop."""

        async def create() -> Any:
            return self.value

        return {"create": create}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read the settings, and enter their `lifetime_function` for the block."""
        settings = self._create()
        async with settings.lifetime_function(), self.serving(settings):
            yield

    def _problems(self, *, only_unset: bool) -> list[str]:
        try:
            self._create()
        except Exception as error:  # an author's `create` may raise anything
            if (found := validation_errors(error)) is None:
                return [] if only_unset else [one_line(error)]
            return [
                f"set {self._variable(each['loc'])} ({each['msg']})"
                for each in found
                if not only_unset or each["type"] == "missing"
            ]
        return []

    def _create(self) -> Any:
        base: Any = DiracxClass.SETTINGS.base
        inherited = self._class.create.__func__ is base.create.__func__
        return self._class() if inherited else self._class.create()

    def _variable(self, location: tuple[Any, ...]) -> str:
        name = str(location[0]) if location else "its variables"
        if name not in self._class.model_fields:
            return name.upper()  # an alias is the whole name
        return f"{self._class.model_config.get('env_prefix', '')}{name}".upper()
