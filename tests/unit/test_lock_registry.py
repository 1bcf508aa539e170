"""The types of lockable objects."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any
from uuid import uuid4

import pytest

from diracx.tasks.plumbing import lock_registry
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.lock_registry import (
    JOB,
    TASK,
    TRANSFORMATION,
    LockedObjectType,
    register_locked_object_type,
)
from diracx.tasks.plumbing.locks import MutexLock
from diracx.tasks.plumbing.wire.names import lock_key


@pytest.fixture(autouse=True)
def _types_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration lasts as long as the process, and errors list all types."""
    monkeypatch.setattr(lock_registry, "_registered", dict(lock_registry._registered))


@pytest.fixture
def name() -> str:
    return f"thing-{uuid4().hex}"


def test_tasks_jobs_and_transformations_can_be_locked() -> None:
    assert [TASK, JOB, TRANSFORMATION] == ["task", "job", "transformation"]
    assert LockedObjectType("job") == JOB


def test_a_registered_type_equals_its_name(name: str) -> None:
    kind = register_locked_object_type(name)
    assert isinstance(kind, LockedObjectType)
    assert kind == name
    assert hash(kind) == hash(name)
    assert LockedObjectType(name) == kind
    assert lock_key("mutex", kind, "1") == f"mutex.{name}.1"
    assert repr(kind) == f"LockedObjectType({name!r})"


def test_a_registered_type_can_be_copied_and_pickled(name: str) -> None:
    kind = register_locked_object_type(name)
    for other in (copy.deepcopy(kind), pickle.loads(pickle.dumps(kind))):
        assert other == kind
        assert isinstance(other, LockedObjectType)


def test_a_type_that_is_not_registered_is_refused_with_the_fix(name: str) -> None:
    with pytest.raises(TaskDefinitionError) as caught:
        LockedObjectType(name)
    assert repr(name) in str(caught.value)
    assert "job, " in str(caught.value)
    assert "register_locked_object_type" in str(caught.value)
    assert "diracx.lock_object_types" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_type_registered_at_two_places_is_refused_and_both_are_named(name: str) -> None:
    register_locked_object_type(name)
    with pytest.raises(TaskDefinitionError, match="registered twice") as caught:
        register_locked_object_type(name)
    assert str(caught.value).count(f"{__name__}:") == 2
    assert LockedObjectType(name) == name


def test_a_module_that_is_loaded_again_registers_its_type_again(name: str) -> None:
    code = compile(f"kind = register({name!r})", "lollygag_locks.py", "exec")
    for _ in range(2):
        module = {"register": register_locked_object_type, "__name__": "lollygag_locks"}
        exec(code, module)
        assert module["kind"] == name


@pytest.mark.parametrize("name", ["", None, 5, b"owner"])
def test_a_type_without_a_name_is_refused(name: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="needs a name") as caught:
        register_locked_object_type(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("odd", ["a.b", "two words", "*", "é", "A\n", "\0", "Owner", "x" * 1_000])
def test_any_text_names_a_type_and_keeps_its_keys_apart(name: str, odd: str) -> None:
    kind = register_locked_object_type(f"{odd}{name}")
    assert re.fullmatch(r"mutex\.[-=_A-Za-z0-9]{1,200}\.1", MutexLock(kind, 1).key)
    assert MutexLock(kind, 1).key != MutexLock(register_locked_object_type(f"{odd.lower()}.{name}"), 1).key
