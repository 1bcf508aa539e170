"""The body of a task message: the fields of the task as a JSON object, by msgspec.

Unknown fields are ignored and missing ones take their default, so two versions of a task run side by side.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect as shapes

from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError, near_names

T = TypeVar("T")

_CLASS_ATTRIBUTES = frozenset(
    {"priority", "size", "retry_policy", "dlq_eligible", "timeout_seconds", "default_schedule"}
)

_NOT_A_JSON_KEY = (
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

    Raises:
        TaskDefinitionError: The class takes arguments and is no dataclass, or msgspec does not support the type of a
            field.
    """

    __slots__ = ("_class", "_decode", "_encode", "fields")

    def __init__(self, task_class: type[T]) -> None:
        self._class = task_class
        self.fields: tuple[dataclasses.Field[Any], ...] = ()
        self._encode = msgspec.json.Encoder().encode
        if dataclasses.is_dataclass(task_class):
            _refuse_undecorated(task_class, "__annotations__" in vars(task_class))
            self.fields = tuple(field for field in dataclasses.fields(task_class) if field.init)
            _refuse_shadowed_attributes(task_class, self.fields)
            _refuse_unsettable(task_class)
            self._decode = _decoder_of(task_class)
        else:
            _refuse_undecorated(task_class, _takes_arguments(task_class))
            self._encode = _encode_nothing
            self._decode = _NoFields(task_class).decode

    def encode(self, task: T) -> bytes:
        """Encode the fields of a task as a JSON object.

        Raises:
            MalformedTaskError: JSON cannot represent the value of a field.
        """
        try:
            return self._encode(task)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise MalformedTaskError(f"{self._class.__name__}: {error}") from error

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
        except msgspec.MsgspecError as error:
            raise MalformedTaskError(str(error) if body else "the body is empty") from None
        except (Exception, SystemExit) as error:  # the __post_init__ of a task may raise anything
            raise MalformedTaskError(f"{type(error).__name__}: {error}") from error

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
        known = [field.name for field in self.fields]
        for key, value in kwargs.items():
            if key not in known:
                near = near_names(key, known)
                hint = f"did you mean {' or '.join(near)}?" if near else f"its fields: {', '.join(known) or 'none'}"
                raise MalformedTaskError(f"{name} has no field {key!r}; {hint}")
            if key in values:
                raise MalformedTaskError(f"{name}: {key} is given twice, by position and by name")
            values[key] = value
        try:
            body = msgspec.json.encode(values)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
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
    own = [base for base in task_class.__mro__ if base is not object and "__annotations__" in vars(base)]
    if any(not _is_class_variable(kind) for base in own for kind in vars(base)["__annotations__"].values()):
        return True
    parameters = inspect.signature(task_class).parameters.values()
    return any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _is_class_variable(annotation: object) -> bool:
    return "ClassVar" in str(annotation)


def _refuse_undecorated(task_class: type, has_arguments: bool) -> None:
    if has_arguments and "__dataclass_fields__" not in vars(task_class):
        own = vars(task_class).get("__annotations__", {})
        if dataclasses.is_dataclass(task_class) and all(map(_is_class_variable, own.values())):
            return
        raise TaskDefinitionError(
            f"{_qualified_name(task_class)} takes arguments but is no dataclass; "
            "put @dataclasses.dataclass above the class"
        )


def _refuse_shadowed_attributes(task_class: type, fields: Sequence[dataclasses.Field[Any]]) -> None:
    for field in fields:
        if field.name in _CLASS_ATTRIBUTES:
            raise TaskDefinitionError(
                f"{_qualified_name(task_class)}: {field.name} is an attribute of the class, "
                f"not a field; write `{field.name} = ...` without an annotation"
            )


def _refuse_unsettable(task_class: type) -> None:
    for field in dataclasses.fields(task_class):
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if missing and not field.init:
            raise TaskDefinitionError(
                f"{_qualified_name(task_class)}: the field {field.name} has init=False and no "
                "default, so no message could leave it out; give it a default"
            )


def _decoder_of(task_class: type[T]) -> Any:
    where = _qualified_name(task_class)
    try:
        decoder = msgspec.json.Decoder(task_class)
        for problem in _unsupported(shapes.type_info(task_class), "$", set()):
            raise TaskDefinitionError(
                f"{where}: the field {problem}, which JSON cannot carry; use a dataclass, "
                "or what msgspec supports (https://jcristharif.com/msgspec/supported-types.html)"
            )
    except (TypeError, NameError, AttributeError, SyntaxError) as error:
        raise TaskDefinitionError(f"{where}: a field cannot be carried: {error}") from error
    return decoder.decode


def _unsupported(shape: Any, path: str, seen: set[type]) -> Iterator[str]:
    """Yield what msgspec accepts here but cannot encode later: unknown types, and keys that JSON lacks."""
    if isinstance(shape, shapes.CustomType):
        yield f"{path} is a {shape.cls.__qualname__}"
        return
    if isinstance(shape, shapes.DictType) and isinstance(shape.key_type, _NOT_A_JSON_KEY):
        yield f"{path} has keys of a type"
        return
    if isinstance(shape, (shapes.DataclassType, shapes.StructType, shapes.TypedDictType, shapes.NamedTupleType)):
        if shape.cls in seen:
            return
        seen.add(shape.cls)
        for field in shape.fields:
            yield from _unsupported(field.type, f"{path}.{field.name}", seen)
        return
    for inner in _inner_shapes(shape):
        yield from _unsupported(inner, path, seen)


def _inner_shapes(shape: Any) -> Iterator[Any]:
    for attribute in ("item_type", "key_type", "value_type"):
        if (inner := getattr(shape, attribute, None)) is not None:
            yield inner
    if isinstance(shape, shapes.UnionType):
        yield from shape.types
    elif isinstance(shape, shapes.TupleType):
        yield from shape.item_types
