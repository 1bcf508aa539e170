"""Pydantic models, and task classes that are made with pydantic."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pydantic.dataclasses
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, RootModel, computed_field, field_validator

T = TypeVar("T")


class Car(BaseModel):
    plate: str
    doors: int = 5
    since: datetime | None = None
    price: Decimal = Decimal(0)


class Garage(BaseModel):
    cars: list[Car] = []
    by_name: dict[str, Car] = {}
    site: str | int = "CERN"


class Box(BaseModel, Generic[T]):
    content: T


class Numbers(RootModel[list[int]]):
    pass


class Renamed(BaseModel):
    """Each alias is one that `model_dump_json` writes or reads, and the other does not."""

    job_id: int = Field(alias="jobId")
    out: str = Field(default="o", serialization_alias="written")
    into: str = Field(default="i", validation_alias=AliasChoices("read", "readToo"))


class Odd(BaseModel):
    """What a validator computes is not written, what it keeps for itself neither."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    size: float = 1.0
    anything: Any = None
    hidden: int = Field(default=0, exclude=True)
    _seen: list[int] = PrivateAttr(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> float:
        return 2 * self.size


class Growing(BaseModel):
    path: str

    @field_validator("path")
    @classmethod
    def below_root(cls, path: str) -> str:
        return f"/{path}"


class Span(msgspec.Struct):
    car: Car
    days: int = 1


@dataclass
class Parking:
    car: Car
    level: int = 0


@dataclass
class Tow:
    """A task whose fields mention models in every place that msgspec reaches."""

    car: Car
    garage: Garage = field(default_factory=Garage)
    maybe: Car | None = None
    many: list[Car] = field(default_factory=list)
    pair: tuple[Car, int] | None = None
    by_name: dict[str, list[Car]] = field(default_factory=dict)
    parking: Parking | None = None
    span: Span | None = None
    box: Box[int] | None = None
    numbers: Numbers | None = None
    renamed: Renamed | None = None
    odd: Odd | None = None
    growing: Growing | None = None
    marked: Annotated[Car, "the spare one"] | None = None
    anything: Any = None


class Wash(BaseModel):
    """The fields of a task that is a model."""

    car: Car
    job_id: int = Field(default=7, alias="jobId")
    rounds: list[int] = Field(default_factory=lambda: [1])


class Closed(Wash):
    model_config = ConfigDict(extra="forbid")


class Open(Wash):
    model_config = ConfigDict(extra="allow")


@pydantic.dataclasses.dataclass
class Polish:
    """The fields of a task that is a pydantic dataclass."""

    car: Car
    rounds: Annotated[int, Field(gt=0)] = 1
