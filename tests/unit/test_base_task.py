"""The values of a task as a tuple, as DiracX gives them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pydantic.dataclasses
import pytest
from pydantic import BaseModel

from diracx.tasks.plumbing.base_task import BaseTask


class Bare(BaseTask):
    async def execute(self) -> None: ...


@dataclasses.dataclass
class Plain(Bare):
    owner_name: str
    limit: int = 3


@dataclasses.dataclass(kw_only=True, slots=True)
class Keywords(Bare):
    owner_name: str
    limit: int = 3


@dataclasses.dataclass
class Counted(Bare):
    owner_name: str
    seen: int = dataclasses.field(init=False, default=3)
    limit: int = 4


@dataclasses.dataclass
class Inner:
    number: int = 1


@dataclasses.dataclass
class Nested(Bare):
    inner: Inner
    many: list[Inner]


class Model(BaseModel):
    number: int = 1


@dataclasses.dataclass
class WithModel(Bare):
    model: Model


class IsModel(Bare, BaseModel):
    model: Model
    name: str = "x"


@pydantic.dataclasses.dataclass
class Checked(Bare):
    number: int
    model: Model


# What DiracX 0.7.0 returns for the same classes; there, IsModel is ().
@pytest.mark.parametrize(
    ("task", "values"),
    [
        (Bare(), ()),
        (Plain("x"), ("x", 3)),
        (Keywords(owner_name="x"), ("x", 3)),
        (Counted("x"), ("x", 3, 4)),
        (Nested(Inner(2), [Inner(3)]), ((2,), [(3,)])),
        (WithModel(Model()), (Model(),)),
        (IsModel(model=Model()), (Model(), "x")),
        (Checked(1, Model()), (1, Model())),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_values_of_the_fields_come_in_the_order_of_the_fields(task: BaseTask, values: tuple[Any, ...]) -> None:
    assert task.serialize() == values
