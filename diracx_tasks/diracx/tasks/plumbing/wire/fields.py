"""The body of a task message: the fields of the task as a JSON object.

Unknown fields are ignored and missing ones take their default, so two versions of a task run side by side. Three kinds
of classes are tasks:

* a dataclass: msgspec writes and reads it. Fields whose types are pydantic models travel through pydantic (see
  `pydantic_json`); a class without such fields pays nothing for it;
* a pydantic model or pydantic dataclass: pydantic writes and reads it. Its own configuration decides on unknown fields;
* a class without fields: an empty object.

What arrives equals what was sent, or `encode` refuses it, see `exact_json`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import inspect as shapes

from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError, near_names
from diracx.tasks.plumbing.wire.difference import non_finite
from diracx.tasks.plumbing.wire.exact_json import ExactJson, one_line
from diracx.tasks.plumbing.wire.pydantic_json import MismatchError, ModelHooks, PydanticJson, is_pydantic

T = TypeVar("T")

# Python 3.14 evaluates annotations when they are asked for; as texts they need no name that is defined later.
_AS_TEXTS: Final[dict[str, Any]] = {"format": 4} if sys.version_info >= (3, 14) else {}

_NOT_A_JSON_KEY = (
    shapes.CustomType,
    shapes.BoolType,
    shapes.NoneType,
    shapes.CollectionType,
    shapes.TupleType,
    shapes.DictType,
    shapes.DataclassType,
    shapes.StructType,
    shapes.NamedTupleType,
    shapes.TypedDictType,
)


class FieldsCodec(Generic[T]):
    """Encodes and decodes the fields of one task class. Create one codec for each class and keep it.

    Attributes:
        fields: The fields that a task is made of, in order; of a pydantic model, too.

    Raises:
        TaskDefinitionError: The class takes arguments and is neither a dataclass nor of pydantic, or a field has a type
            that cannot be carried.
    """

    __slots__ = ("_class", "_decode", "_encode", "_names", "fields")

    def __init__(self, task_class: type[T]) -> None:
        self._class = task_class
        self.fields: tuple[dataclasses.Field[Any], ...] = ()
        self._names: list[str] | None = []
        self._encode: Callable[[T], bytes] = _encode_nothing
        self._decode: Callable[[bytes], T]
        if dataclasses.is_dataclass(task_class):
            _refuse_undecorated(task_class, bool(own_annotations(task_class)))
            _refuse_unsettable(task_class)
        if is_pydantic(task_class):
            _refuse_root_model(task_class)
            json = PydanticJson(task_class)
            self.fields, self._names = json.fields, json.names
            exact: ExactJson[T] = ExactJson(json.encode, json.decode)
            self._encode, self._decode = exact.encode, exact.decode
        elif dataclasses.is_dataclass(task_class):
            self.fields = tuple(field for field in dataclasses.fields(task_class) if field.init)
            self._names = [field.name for field in self.fields]
            exact = _of_dataclass(task_class)
            self._encode, self._decode = exact.encode, exact.decode
        else:
            _refuse_undecorated(task_class, _takes_arguments(task_class))
            self._decode = _NoFields(task_class).decode

    def encode(self, task: T) -> bytes:
        """Encode the fields of a task as a JSON object, from which `decode` makes an equal task.

        Raises:
            MalformedTaskError: A value does not fit its field, or would arrive as another one; the text is one line
                with the path of the value.
        """
        try:
            return self._encode(task)
        except RecursionError:
            raise MalformedTaskError(f"{self._class.__name__}: it is nested too deeply; make it flat") from None
        except Exception as error:  # whatever an author's class raises
            raise MalformedTaskError(f"{self._class.__name__}: {one_line(error)}") from error

    def decode(self, body: bytes) -> T:
        """Create the task from a body.

        Raises:
            MalformedTaskError: The body is no JSON object, or a value does not fit its field; the text contains the
                path of the field.
        """
        try:
            task: T = self._decode(body)
            return task
        except RecursionError:
            raise MalformedTaskError("the body is nested too deeply") from None
        except UnicodeDecodeError as error:
            raise MalformedTaskError(f"the body is not UTF-8: {error}") from None
        except (msgspec.MsgspecError, MismatchError) as error:
            raise MalformedTaskError(one_line(error) if body else "the body is empty") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the __post_init__ of a task may raise anything
            raise MalformedTaskError(f"{type(error).__name__}: {one_line(error)}") from error

    def from_arguments(self, args: Sequence[object], kwargs: Mapping[str, object]) -> T:
        """Create a task from arguments of JSON types, which are converted to the types of the fields.

        Raises:
            MalformedTaskError: There are too many arguments, a name is unknown, or a value does not fit its field; the
                text contains the name or the path.
        """
        name = self._class.__name__
        positional = [field.name for field in self.fields if not field.kw_only]
        if len(args) > len(positional):
            takes = ", ".join(positional) or "none"
            raise MalformedTaskError(f"{name} takes {len(positional)} positional arguments ({takes}), got {len(args)}")
        values = dict(zip(positional, args, strict=False))
        known = self._names
        for key, value in kwargs.items():
            if known is not None and key not in known:
                near = near_names(key, known)
                hint = f"did you mean {' or '.join(near)}?" if near else f"its fields: {', '.join(known) or 'none'}"
                raise MalformedTaskError(f"{name} has no field {key!r}; {hint}")
            if key in values:
                raise MalformedTaskError(f"{name}: {key} is given twice, by position and by name")
            values[key] = value
        try:
            for key, value in values.items():
                if (found := non_finite(value, f"$.{key}")) is not None:
                    raise MalformedTaskError(f"{name}: the value at {found}")
            body = msgspec.json.encode(values)
        except RecursionError:
            raise MalformedTaskError(f"{name}: an argument is nested too deeply; make it flat") from None
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise MalformedTaskError(f"{name}: {error}") from error
        return self.decode(body)


class _NoFields(Generic[T]):
    """Decodes the body of a class without fields, which may be any JSON object."""

    _object = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def __init__(self, task_class: type[T]) -> None:
        self._class = task_class

    def decode(self, body: bytes) -> T:
        self._object.decode(body)
        return self._class()


def _encode_nothing(task: object) -> bytes:
    return b"{}"


def _qualified_name(task_class: type) -> str:
    return f"{task_class.__module__}.{task_class.__qualname__}"


def _takes_arguments(task_class: type) -> bool:
    if any(not _is_class_variable(kind) for base in task_class.__mro__ for kind in own_annotations(base).values()):
        return True
    parameters = inspect.signature(task_class).parameters.values()
    return any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def own_annotations(kind: type) -> dict[str, Any]:
    """The annotations of a class itself, without those of its bases."""
    return inspect.get_annotations(kind, **_AS_TEXTS)


def _is_class_variable(annotation: object) -> bool:
    return "ClassVar" in str(annotation)


def _refuse_undecorated(task_class: type, has_arguments: bool) -> None:
    if has_arguments and "__dataclass_fields__" not in vars(task_class):
        own = own_annotations(task_class)
        if dataclasses.is_dataclass(task_class) and all(map(_is_class_variable, own.values())):
            return
        raise TaskDefinitionError(
            f"{_qualified_name(task_class)} takes arguments but is no dataclass; "
            "put @dataclasses.dataclass above the class, or make it a pydantic model: class "
            f"{task_class.__name__}(..., BaseModel)"
        )


def _refuse_unsettable(task_class: type) -> None:
    for field in dataclasses.fields(task_class):
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and not field.init:
            raise TaskDefinitionError(
                f"{_qualified_name(task_class)}: the field {field.name} has init=False and no "
                "default, so no message could leave it out; give it a default"
            )


def _refuse_root_model(task_class: Any) -> None:
    if getattr(task_class, "__pydantic_root_model__", False):
        raise TaskDefinitionError(
            f"{_qualified_name(task_class)} is a RootModel, and the body of a task has named fields; "
            "make it a BaseModel with one field"
        )


def _of_dataclass(task_class: type[T]) -> ExactJson[T]:
    where = _qualified_name(task_class)
    try:
        decoder = msgspec.json.Decoder(task_class)
        shape = shapes.type_info(task_class)
        models: list[type] = []
        for problem in _unsupported(shape, "$", set(), models):
            raise TaskDefinitionError(f"{where}: the field {problem}")
    except TaskDefinitionError:
        raise
    except (NameError, AttributeError, SyntaxError) as error:
        raise TaskDefinitionError(
            f"{where}: {_field_of(task_class, error)} cannot be carried: {error}; define or import the name at the top "
            "of its module, outside `if TYPE_CHECKING:`"
        ) from error
    except Exception as error:  # whatever msgspec, or an annotation when it is evaluated, raises
        raise TaskDefinitionError(
            f"{where}: {_field_of(task_class, error)} cannot be carried: {one_line(error)}; simplify its type, or put "
            "it into a pydantic model"
        ) from error
    if not models:
        return ExactJson(msgspec.json.Encoder().encode, decoder.decode, shape)
    hooks = ModelHooks(models)
    return ExactJson(
        msgspec.json.Encoder(enc_hook=hooks.write).encode, msgspec.json.Decoder(task_class, dec_hook=hooks.read).decode
    )


def _field_of(task_class: Any, error: Exception) -> str:
    """The field of a dataclass of which msgspec raises this very error; msgspec itself names none."""
    for field in dataclasses.fields(task_class):
        alone = dataclasses.make_dataclass("_Alone", [(field.name, field.type)])
        alone.__module__ = task_class.__module__  # where the names in an annotation are looked up
        try:
            msgspec.json.Decoder(alone)
        except Exception as found:  # as in _of_dataclass
            if str(found) == str(error):
                return f"the field {field.name}"
    return "a field"


def _unsupported(shape: Any, path: str, seen: set[type], models: list[type]) -> Iterator[str]:
    """Yield what msgspec accepts here but cannot encode later: unknown types, and keys that JSON lacks.

    Pydantic models are no problem: they are added to `models`.
    """
    if isinstance(shape, shapes.CustomType):
        if is_pydantic(shape.cls):
            models.append(shape.cls)
        else:
            yield f"{path} is a {shape.cls.__qualname__}, {_mend(shape.cls)}"
        return
    if isinstance(shape, shapes.DictType) and isinstance(shape.key_type, _NOT_A_JSON_KEY):
        kind = getattr(shape.key_type, "cls", None)
        name = (
            kind.__qualname__ if kind else type(shape.key_type).__name__.removesuffix("Type").lower().replace("var", "")
        )
        yield f"{path} has keys of the type {name}, {_mend(dict)}"
        return
    if isinstance(shape, (shapes.DataclassType, shapes.StructType, shapes.TypedDictType, shapes.NamedTupleType)):
        if shape.cls in seen:
            return
        seen.add(shape.cls)
        if is_pydantic(shape.cls):
            yield (
                f"{path} is the pydantic dataclass {shape.cls.__qualname__}, whose checks would be skipped here; make "
                "it a pydantic model, or put @pydantic.dataclasses.dataclass above the task, too"
            )
        for field in shape.fields:
            yield from _unsupported(field.type, f"{path}.{field.name}", seen, models)
        return
    for inner in _inner_shapes(shape):
        yield from _unsupported(inner, path, seen, models)


def _mend(kind: type) -> str:
    if kind.__module__.partition(".")[0] in ("pydantic", "pydantic_extra_types"):
        return "which only pydantic can read; put it into a pydantic model, or make the task one"
    return (
        "which JSON cannot carry; use a dataclass, a pydantic model, "
        "or what msgspec supports (https://jcristharif.com/msgspec/supported-types.html)"
    )


def _inner_shapes(shape: Any) -> Iterator[Any]:
    for attribute in ("type", "item_type", "key_type", "value_type"):
        if (inner := getattr(shape, attribute, None)) is not None:
            yield inner
    if isinstance(shape, shapes.UnionType):
        yield from shape.types
    elif isinstance(shape, shapes.TupleType):
        yield from shape.item_types
