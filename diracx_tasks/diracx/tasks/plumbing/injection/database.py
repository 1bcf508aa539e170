"""What diracx-db's SQL and OpenSearch databases have in common: a name, implementations in order, a variable.

Which class serves a name is diracx's word: its entry points in the order of extensions, as diracx-core sorts them.
Whoever asks for a class of a name is given an instance of the preferred class of that name, once for both.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar, Final

from diracx.tasks.plumbing.injection.diracx_classes import Kind
from diracx.tasks.plumbing.injection.resource import Resource, phrase

_EXTENSIONS: Final = "diracx.core.extensions"


class Database(Resource[Any]):
    """One database by the name of its entry point.

    Args:
        base: diracx-db's base class.
        name: The name of the entry point; that of the class where there is none.
        listed: There is an entry point.
    """

    kind: ClassVar[Kind]
    group: ClassVar[str]
    variable_prefix: ClassVar[str]

    def __init__(self, base: Any, name: str, *, listed: bool = True) -> None:
        super().__init__(name)
        self.base = base
        self._listed = listed

    @property
    def variable(self) -> str:
        """The environment variable that says where it is."""
        return f"{self.variable_prefix}{self.name.upper()}"

    @abstractmethod
    def example(self) -> str:
        """A value for the variable."""

    def problems(self) -> list[str]:
        """What is missing: the entry point, or a variable that diracx can read."""
        if not self._listed:
            mend = (
                f"no extension of DiracX lists it; in its pyproject.toml, add {self.name} to "
                f'[project.entry-points."{self.group}"] and `extension = "<its package>"` to '
                '[project.entry-points."diracx"], and install it again'
            )
            return [mend]
        mend = f"set {self.variable}, e.g. {self.example()}"
        try:
            return [] if self.name in self.base.available_urls() else [mend]
        except Exception as error:  # diracx reads all of them, and fails at the first that it cannot
            if self.variable not in map(str.upper, os.environ):
                return [mend]
            return [f"{self.variable}, or another {self.variable_prefix}..., cannot be used ({phrase(error)})"]

    def preferred(self) -> Any:
        """The class that serves the name."""
        return self.base.available_implementations(self.name)[0]


def name_of_database(kind: type[Database], base: Any, asked: type) -> str | None:
    """The name whose implementations hold a class; None where no entry point does."""
    # Its namesake first: loading a name imports all that implement it.
    for name in sorted(_names(kind.group), key=lambda name: name != asked.__name__):
        with suppress(Exception):  # another extension's entry point is broken; whoever needs it is told
            if asked in base.available_implementations(name):
                return name
    return None


def _names(group: str) -> Iterable[str]:
    return {point.name for point in import_module(_EXTENSIONS).select_from_extension(group=group)}
