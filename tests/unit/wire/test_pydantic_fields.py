"""Pydantic in the bodies of tasks: models as fields of a dataclass, and tasks that are models themselves."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass
from datetime import UTC
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, EmailStr, RootModel, SecretStr, field_validator

from diracx.tasks.plumbing.exceptions import MalformedTaskError, TaskDefinitionError
from diracx.tasks.plumbing.wire.fields import FieldsCodec
from support.pydantic_shapes import (
    Box,
    Car,
    Closed,
    Garage,
    Growing,
    Numbers,
    Odd,
    Open,
    Parking,
    Polish,
    Renamed,
    Span,
    Tow,
    Wash,
)
from support.task_shapes import AT, with_field

VW = Car(plate="GE 1")
VW_JSON = b'{"plate":"GE 1","doors":5,"since":null,"price":"0"}'


@pytest.mark.parametrize(
    "task",
    [
        Tow(VW),
        Tow(Car(plate="é", doors=3, since=AT, price=Decimal("0.10")), Garage(cars=[VW], by_name={"a": VW}, site=7)),
        Tow(VW, maybe=VW, many=[VW, VW], pair=(VW, 1), by_name={"x": [VW]}),
        Tow(VW, parking=Parking(VW, 2), span=Span(VW, 3), box=Box[int](content=3), numbers=Numbers([1, 2])),
        Tow(
            VW,
            renamed=Renamed.model_validate({"jobId": 1, "read": "r"}),
            odd=Odd(size=2.0, anything={"a": [1, None]}),
            marked=VW,
        ),
        Tow(VW, anything=[1, {"a": None}]),
        Wash(car=VW, jobId=8, rounds=[2**70]),
        Closed(car=VW),
        Open(car=VW, colour="red"),  # type: ignore[call-arg]
        Polish(VW, 3),
    ],
    ids=lambda task: type(task).__name__,
)
def test_a_task_with_pydantic_arrives_as_it_was_sent(task: Any) -> None:
    codec = FieldsCodec(type(task))
    read = codec.decode(codec.encode(task))
    assert read == task
    assert type(read) is type(task)


def test_a_model_travels_as_its_json_in_its_place() -> None:
    body = FieldsCodec(Parking).encode(Parking(VW))
    assert body == b'{"car":' + VW_JSON + b',"level":0}'
    assert FieldsCodec(Wash).encode(Wash(car=VW)) == b'{"car":' + VW_JSON + b',"job_id":7,"rounds":[1]}'
    assert FieldsCodec(Polish).encode(Polish(VW)) == b'{"car":' + VW_JSON + b',"rounds":1}'


def test_names_and_aliases_are_read_alike() -> None:
    for key in (b"jobId", b"job_id"):
        assert FieldsCodec(Wash).decode(b'{"car":{"plate":"x"},"' + key + b'":9}').job_id == 9
        body = b'{"car":{"plate":"x"},"renamed":{"' + key + b'":9,"readToo":"r"}}'
        assert FieldsCodec(Tow).decode(body).renamed == Renamed(jobId=9, readToo="r")  # type: ignore[call-arg]


def test_private_attributes_begin_anew() -> None:
    odd = Odd(size=2.0)
    odd._seen.append(1)
    codec = FieldsCodec(Tow)
    read = codec.decode(codec.encode(Tow(VW, odd=odd)))
    assert read.odd is not None
    assert (read.odd.size, read.odd.double, read.odd._seen) == (2.0, 4.0, [])


class Truck(Car):
    load: int = 1


class Safe(BaseModel):
    code: SecretStr
    raw: bytes = b""


def unchecked(**values: Any) -> Car:
    """A model that was changed past its validators."""
    return Car.model_construct(**values)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Tow(Truck(plate="x")), "a Truck stands where no field has exactly that type"),
        (Tow("x"), r"the value at \$\.car|cannot be read.*at `\$\.car`"),  # type: ignore[arg-type]
        (Tow(unchecked(plate=7)), "plate"),
        (Tow(unchecked(plate="x", doors="3")), "doors"),
        (Tow(unchecked(doors=3)), r"cannot be read from its own JSON: Field required - at `\$\.car\.plate`"),
        (Tow(VW, garage=Garage(cars=[Truck(plate="x")])), r"\$\.garage\.cars\[0\] is a Truck, and would .* a Car"),
        (Tow(VW, odd=Odd(anything=(1, 2))), r"\$\.odd\.anything is a tuple, and would arrive as a list"),
        (Tow(VW, odd=Odd(anything={"a": AT})), r"\$\.odd\.anything\['a'\] is datetime"),
        (Tow(VW, odd=Odd(anything=float("nan"))), "cannot be read from its own JSON|invalid|malformed"),
        (Tow(VW, odd=Odd(anything=object())), "Unable to serialize"),
        (Tow(VW, odd=Odd(anything="\udcff")), "surrogates"),
        (Tow(VW, odd=Odd(hidden=3)), r"\$\.odd\.hidden is 3, and would arrive as 0"),
        (Tow(VW, growing=Growing(path="a")), r"\$\.growing\.path is '/a', and would arrive as '//a'"),
        (Tow(VW, anything=VW), r"\$\.anything is a Car, and would arrive as a dict"),
        (Tow(VW, anything={1: 2}), r"\$\.anything is \{1: 2\}, and would arrive as \{'1': 2\}"),
        (Tow(VW, anything=float("nan")), r"\$\.anything is nan, and would arrive as None"),
        (Odd(size=float("nan")), "malformed|invalid"),
        (
            Safe(code=SecretStr("1234")),
            r"\$\.code is SecretStr\('\*+'\), and would .* another SecretStr; the worker reads",
        ),
        (Safe(code=SecretStr("**********"), raw=b"\xff"), "utf-8"),
        (Growing(path="a"), r"\$\.path is '/a', and .*; the worker reads what pydantic writes, so a validator or"),
        (Open(car=VW, colour=(1,)), r"\$\.colour is a tuple"),  # type: ignore[call-arg]
        (Open(car=VW, **{"": {3: 1}}), "arrive"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_would_change_on_the_way_is_refused_in_one_line(task: Any, why: str) -> None:
    with pytest.raises(MalformedTaskError, match=why) as caught:
        FieldsCodec(type(task)).encode(task)
    assert str(caught.value).startswith(f"{type(task).__name__}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task_class", "body", "why"),
    [
        (Tow, b'{"car":{"plate":7}}', r"^Input should be a valid string - at `\$\.car\.plate`$"),
        (Tow, b'{"car":{}}', r"^Field required - at `\$\.car\.plate`$"),
        (Tow, b'{"car":7}', r"^Input should be an object - at `\$\.car`$"),
        (
            Tow,
            b'{"car":{"plate":"x"},"many":[{"plate":"x"},{"plate":1,"doors":"y"}]}',
            r"and 1 more.*\$\.many\[1\]\.plate`",
        ),
        (Tow, b'{"car":{"plate":"x"},"garage":{"cars":[{"plate":[]}]}}', r"at `\$\.garage\.cars\[0\]\.plate`$"),
        (Tow, b"{}", "missing required field `car`"),
        (Wash, b'{"car":{"plate":7}}', r"^Input should be a valid string - at `\$\.car\.plate`$"),
        (Wash, b"[]", r"object.* - at `\$`$"),
        (Wash, b"", "^the body is empty$"),
        (Wash, b"{", "^Invalid JSON: "),
        (Wash, b"\xff", "^Invalid JSON: "),
        (Wash, b"[" * 100_000, "^Invalid JSON: "),
        (Closed, b'{"car":{"plate":"x"},"newer":1}', r"^Extra inputs are not permitted - at `\$\.newer`$"),
        (Polish, b'{"car":{"plate":"x"},"rounds":0}', r"greater than 0 - at `\$\.rounds`$"),
    ],
)
def test_a_body_that_does_not_fit_is_malformed_and_has_its_path(task_class: Any, body: bytes, why: str) -> None:
    with pytest.raises(MalformedTaskError, match=why) as caught:
        FieldsCodec(task_class).decode(body)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_ignored_kept_or_refused_as_the_model_says() -> None:
    body = b'{"car":{"plate":"x","newer":1},"newer":1}'
    assert FieldsCodec(Wash).decode(body) == Wash(car=Car(plate="x"))
    assert FieldsCodec(Open).decode(body).model_extra == {"newer": 1}
    assert FieldsCodec(Tow).decode(body) == Tow(Car(plate="x"))


@pytest.mark.parametrize("error", [KeyError("many"), SystemExit("many"), AssertionError("many")], ids=repr)
def test_whatever_a_validator_raises_is_malformed(error: BaseException) -> None:
    class Picky(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def check(cls, number: int) -> int:
            if number == 1:
                raise error
            return number

    for body, task_class in ((b'{"number":1}', Picky), (b'{"value":{"number":1}}', with_field(Picky))):
        with pytest.raises(MalformedTaskError, match="many"):
            FieldsCodec(task_class).decode(body)
    if isinstance(error, Exception):
        with pytest.raises(MalformedTaskError, match=r"own JSON: .*many"):
            FieldsCodec(Picky).encode(Picky.model_construct(number=1))


def test_a_model_is_made_from_arguments_by_position_name_or_alias() -> None:
    codec = FieldsCodec(Wash)
    car = {"plate": "x"}
    for args, kwargs in (([car, 9], {}), ([car], {"job_id": 9}), ([], {"jobId": 9, "car": car})):
        assert codec.from_arguments(args, kwargs) == Wash(car=Car(plate="x"), jobId=9)
    assert FieldsCodec(Polish).from_arguments([car, "3"], {}) == Polish(Car(plate="x"), 3)
    assert FieldsCodec(Open).from_arguments([car], {"colour": "red"}).model_extra == {"colour": "red"}
    assert FieldsCodec(Tow).from_arguments([car], {"many": [car]}).many == [Car(plate="x")]
    with pytest.raises(MalformedTaskError, match="Wash has no field 'carr'; did you mean car"):
        codec.from_arguments([], {"carr": car})
    with pytest.raises(MalformedTaskError, match=r"takes 3 positional arguments \(car, job_id, rounds\), got 4"):
        codec.from_arguments([car, 1, [], 4], {})
    with pytest.raises(MalformedTaskError, match=r"Field required - at `\$\.car\.plate`"):
        codec.from_arguments([{}], {})


def test_the_fields_of_a_model_are_known_with_their_defaults() -> None:
    assert [(field.name, field.default is MISSING) for field in FieldsCodec(Wash).fields] == [
        ("car", True),
        ("job_id", False),
        ("rounds", False),
    ]


class Incomplete(BaseModel):
    part: Nowhere  # type: ignore[name-defined]  # noqa: F821


class Listed(RootModel[list[int]]):
    pass


@dataclass
class HoldsPolish:
    polish: Polish


@pytest.mark.parametrize(
    ("task_class", "why"),
    [
        (
            with_field(SecretStr),
            r"\$\.value is a SecretStr, which only pydantic can read; put it into a pydantic model",
        ),
        (with_field(list[AnyUrl]), r"\$\.value is a AnyUrl, which only pydantic can read"),
        (with_field(EmailStr | None), r"\$\.value is a EmailStr, which only pydantic can read"),
        (with_field(Car | int), "simplify its type, or put it into a pydantic model"),
        (with_field(Car | Garage), "simplify its type, or put it into a pydantic model"),
        (with_field(dict[Car, int]), "has keys of the type Car"),
        (with_field(complex), "use a dataclass, a pydantic model, or what msgspec supports"),
        (
            HoldsPolish,
            r"\$\.polish is the pydantic dataclass Polish, whose checks would be skipped here; make it a pyd",
        ),
        (with_field(Incomplete), r"Incomplete: pydantic cannot read it: .*Nowhere"),
        (Incomplete, r"Incomplete: pydantic cannot read it: .*Nowhere"),
        (Listed, "Listed is a RootModel, and the body of a task has named fields; make it a BaseModel with one field"),
    ],
)
def test_a_class_that_cannot_travel_is_refused_with_the_mend(task_class: Any, why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why) as caught:
        FieldsCodec(task_class)
    assert "\n" not in str(caught.value)


def test_an_older_pydantic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapter:
        def validate_json(self, data: bytes) -> Any: ...

    older = SimpleNamespace(VERSION="2.10.6", ValidationError=ValueError, TypeAdapter=Adapter)
    monkeypatch.setitem(sys.modules, "pydantic", older)
    with pytest.raises(TaskDefinitionError, match=r"Wash: pydantic 2.10.6 is too old; install pydantic 2.11 or newer"):
        FieldsCodec(Wash)


texts = st.text(st.characters(codec="utf-8"))
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=4)
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=5,
)
cars = st.builds(
    Car,
    plate=texts,
    doors=st.integers(),
    since=st.none() | st.datetimes(timezones=st.none() | st.just(UTC)),
    price=st.decimals(allow_nan=False, allow_infinity=False),
)
odds = st.builds(Odd, size=st.floats(), anything=anything, hidden=st.integers(0, 1))


@settings(deadline=None)
@given(
    st.builds(Tow, car=cars, many=st.lists(cars), odd=st.none() | odds, anything=anything)
    | st.builds(Wash, car=cars, jobId=st.integers(), rounds=st.lists(st.integers()))
    | odds
)
def test_any_task_arrives_as_it_was_sent_or_is_refused(task: Any) -> None:
    codec = FieldsCodec(type(task))
    try:
        body = codec.encode(task)
    except MalformedTaskError:
        return
    assert codec.decode(body) == task
