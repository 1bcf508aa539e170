"""The JSON of pydantic models and pydantic dataclasses, as fields of a task or as the task itself.

* Nothing here imports pydantic. Whoever defines such a class has done so, and all others never load it.
* The JSON has the names of the fields. Reading accepts their aliases, too, so a publisher in another language may use
  either.
* Exact or refused. pydantic writes some values that it reads as others: a `SecretStr` as asterisks, a subclass without
  its further fields, a tuple in an `Any` as a list. So whoever encodes reads the JSON back, see `difference`.
* Private attributes and `model_fields_set` do not travel: they are those of a model that was just read.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from diracx.tasks.plumbing.exceptions import TaskDefinitionError, shown


class MismatchError(ValueError):
    """JSON does not fit a pydantic class.

    Args:
        text: What is wrong, in one line.
        path: Where, after the place of the model, e.g. `.owner[0]`; empty for the model itself.
    """

    def __init__(self, text: str, path: str = "") -> None:
        self.path = path
        super().__init__(text)


def is_pydantic(kind: Any) -> bool:
    """Whether it is a pydantic model or a pydantic dataclass; pydantic need not be installed."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


class PydanticJson:
    """Writes and reads the instances of one pydantic class.

    Attributes:
        fields: What its constructor takes, in order.
        names: The names and aliases that its JSON may have; None if it may have any.

    Raises:
        TaskDefinitionError: The class is not complete, its JSON is no object, or pydantic is too old.
    """

    def __init__(self, kind: Any) -> None:
        where = f"{kind.__module__}.{kind.__qualname__}"
        pydantic = sys.modules["pydantic"]
        self._invalid: type[Exception] = pydantic.ValidationError
        if "by_name" not in inspect.signature(pydantic.TypeAdapter.validate_json).parameters:
            raise TaskDefinitionError(
                f"{where}: pydantic {pydantic.VERSION} is too old; install pydantic 2.11 or newer"
            )
        try:
            self._adapter = pydantic.TypeAdapter(kind)
            self._adapter.rebuild(raise_errors=True)
        except Exception as error:  # whatever the schema of an author's class may raise
            text = " ".join(str(error).split())
            raise TaskDefinitionError(f"{where}: pydantic cannot read it: {text}") from error
        self.fields = tuple(_fields_of(kind))
        self.names = _names_of(kind, self.fields)

    def encode(self, value: object) -> bytes:
        """Write an instance.

        Raises:
            ValueError: pydantic cannot write a value, or it does not fit its field.
        """
        text: bytes = self._adapter.dump_json(value, round_trip=True, by_alias=False, warnings="error")
        return text

    def decode(self, text: bytes) -> Any:
        """Read an instance.

        Raises:
            MismatchError: The JSON does not fit; the error knows the path.
            Exception: Whatever the validators of the class raise beside `ValueError` and `AssertionError`.
        """
        try:
            return self._adapter.validate_json(text, by_alias=True, by_name=True)
        except self._invalid as error:
            first, *others = error.errors(include_url=False, include_context=False, include_input=False)  # type: ignore[attr-defined]
            more = f" (and {len(others)} more)" if others else ""
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            raise MismatchError(shown(" ".join(first["msg"].split())) + more, shown(path)) from None


class ModelHooks:
    """The hooks with which msgspec carries pydantic models in the fields of a dataclass. It asks them for nothing else.

    Args:
        kinds: The models that the types of the fields mention.
    """

    def __init__(self, kinds: Iterable[type]) -> None:
        self._json = {kind: PydanticJson(kind) for kind in kinds}

    def write(self, value: object) -> msgspec.Raw:
        """The `enc_hook`."""
        json = self._json.get(type(value))
        if json is None:
            raise TypeError(f"a {type(value).__name__} stands where no field has exactly that type")
        return msgspec.Raw(json.encode(value))

    def read(self, kind: type, value: object) -> Any:
        """The `dec_hook`: `value` is JSON that msgspec has parsed already."""
        return self._json[kind].decode(msgspec.json.encode(value))


def _fields_of(kind: Any) -> Iterator[dataclasses.Field[Any]]:
    if dataclasses.is_dataclass(kind):
        yield from (field for field in dataclasses.fields(kind) if field.init)
        return
    for name, info in kind.model_fields.items():
        default: Any = dataclasses.MISSING if info.is_required() else info.get_default(call_default_factory=False)
        field: dataclasses.Field[Any] = dataclasses.field(default=default)
        field.name, field.kw_only = name, False
        yield field


def _names_of(kind: Any, fields: Iterable[dataclasses.Field[Any]]) -> list[str] | None:
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    if config.get("extra") == "allow":
        return None
    names = [field.name for field in fields]
    for info in kind.__pydantic_fields__.values():
        choices = getattr(info.validation_alias, "choices", [info.validation_alias])
        names += [choice for choice in choices if isinstance(choice, str)]
    return names
