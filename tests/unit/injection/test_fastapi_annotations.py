"""What `auto_inject` leaves for FastAPI to read. Annotations are texts here, as in the routes of DiracX."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import fastapi
import httpx
import pydantic
import pytest
from diracx.core.config import ConfigSource
from diracx.core.properties import SecurityProperty

from diracx.tasks.plumbing import AvailableSecurityProperties, BaseTask, Config
from diracx.tasks.plumbing.depends import Depends, NoTransaction, auto_inject, auto_inject_depends
from diracx.tasks.plumbing.injection.resources import Resources
from support.acme import GarageSettings, LogsDB, LollygagDB

if TYPE_CHECKING:
    from decimal import Decimal

SERVED: dict[Callable[..., Any], Callable[..., Any]] = {
    LollygagDB.transaction: lambda: "transaction",
    LollygagDB.no_transaction: lambda: "no transaction",
    GarageSettings.create: lambda: "settings",
    ConfigSource.create: lambda: "config",
    SecurityProperty.available_properties: lambda: "properties",
}


class Owner(pydantic.BaseModel):
    name: str


def user(x_user: Annotated[str, fastapi.Header()]) -> str:
    return x_user


def application(endpoint: Callable[..., Any], **how: Any) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.add_api_route("/{number}", endpoint, methods=["POST"], **how)
    app.dependency_overrides.update(SERVED)
    return app


async def post(endpoint: Callable[..., Any], **how: Any) -> httpx.Response:
    transport = httpx.ASGITransport(application(endpoint, **how))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers={"X-User": "alice"}) as client:
        return await client.post("/7?word=hello", json={"name": "bob"})


# An access policy as DiracX writes it: a function with the policy as its first argument, made an injected callable.
async def _check(
    policy: Callable[..., Any], name: str, user: Annotated[str, fastapi.Depends(user)], settings: GarageSettings
) -> Callable[..., Any]:
    async def check(**facts: Any) -> Any:
        return await policy(name, user, settings, **facts)

    return check


async def _policy(name: str, user: str, settings: Any, *, db: Any) -> list[Any]:
    return [name, user, settings, db]


AccessPolicy = Annotated[Callable[..., Any], fastapi.Depends(functools.partial(auto_inject(_check), _policy, "wms"))]


@auto_inject
async def guarded(db: LollygagDB, check: AccessPolicy, number: int, owner: Owner, word: str = "") -> list[Any]:
    return [*await check(db=db), number, owner.name, word]


GUARDED = ["wms", "alice", "settings", "transaction", 7, "bob", "hello"]


async def test_a_route_with_an_access_policy_answers() -> None:
    response = await post(guarded)
    assert (response.status_code, response.json()) == (200, GUARDED)


async def test_a_partial_of_the_policy_is_resolved_when_the_partial_is_injected() -> None:
    policy = auto_inject(functools.partial(_check, _policy, "wms"))

    async def endpoint(check: Any, db: Any) -> Any:
        return await check(db=db)

    endpoint.__annotations__ = {
        "check": Annotated[Any, fastapi.Depends(policy)],
        "db": NoTransaction[LollygagDB],
    }
    response = await post(auto_inject(endpoint))
    assert response.json() == ["wms", "alice", "settings", "no transaction"]


class Garage:
    async def look(self, db: LollygagDB, number: int) -> list[Any]:
        """Look into it."""
        return [db, number]

    async def __call__(self, owner: Owner, db: LollygagDB) -> list[Any]:
        return [db, owner.name]


@dataclass(frozen=True, slots=True)
class FrozenGarage:
    colour: str

    async def __call__(self, db: LollygagDB, number: int) -> list[Any]:
        return [db, number, self.colour]


async def test_a_bound_method_is_a_route() -> None:
    endpoint = auto_inject(Garage().look)
    assert (await post(endpoint)).json() == ["transaction", 7]
    assert application(endpoint).routes[-1].name == "look"  # type: ignore[attr-defined]
    assert inspect.signature(Garage.look).parameters["db"].annotation == "LollygagDB"


async def test_an_object_with_call_is_a_route() -> None:
    assert (await post(auto_inject(Garage()))).json() == ["transaction", "bob"]


async def test_an_object_that_takes_no_attributes_is_a_route() -> None:
    assert (await post(auto_inject(FrozenGarage("red")))).json() == ["transaction", 7, "red"]


async def test_a_class_is_a_dependency_and_its_subclasses_keep_their_own_signature() -> None:
    @auto_inject
    class Reader:
        def __init__(self, db: LollygagDB, number: int) -> None:
            self.found = [db, number]

    class OtherReader(Reader):
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, word: str) -> str:
            return self.name + word

    async def endpoint(reader: Any) -> Any:
        return reader.found

    endpoint.__annotations__ = {"reader": Annotated[Reader, fastapi.Depends()]}
    assert (await post(endpoint)).json() == ["transaction", 7]
    assert list(inspect.signature(OtherReader).parameters) == ["name"]
    assert list(inspect.signature(OtherReader("x")).parameters) == ["word"]


async def test_a_marker_without_a_callable_means_the_annotated_class() -> None:
    @auto_inject
    class Reader:
        def __init__(self, db: LollygagDB) -> None:
            self.found = db

    async def endpoint(reader: Any) -> Any:
        return reader.found

    endpoint.__annotations__ = {"reader": Annotated[Reader, Depends()]}
    assert (await post(auto_inject(endpoint))).json() == "transaction"


def test_a_class_whose_signature_is_not_that_of_its_constructor_gets_it_itself() -> None:
    class Model(pydantic.BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        db: Any

    Model.__signature__ = inspect.Signature(
        [inspect.Parameter("db", inspect.Parameter.KEYWORD_ONLY, annotation=LollygagDB)]
    )
    assert "transaction" in str(inspect.signature(auto_inject(Model)).parameters["db"])


async def _unnamed(*rest: Any, db: LollygagDB, **more: Any) -> Any:
    return db


def _wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await call(*args, **kwargs)

    return wrapper


async def test_a_decorated_function_is_read_in_its_own_module() -> None:
    decorated = _wrapped(functools.partial(_wrapped(_check), _policy))
    parameters = inspect.signature(auto_inject(decorated)).parameters
    assert parameters["name"].annotation is str
    assert parameters["settings"].annotation == Annotated[GarageSettings, fastapi.Depends(GarageSettings.create)]


def test_every_annotation_is_resolved_and_metadata_kept() -> None:
    def endpoint(  # type: ignore[no-untyped-def]
        number: Annotated[int, fastapi.Path(ge=1), "kept"],
        nested: list[Owner] | None,
        nothing: None,
        db: Annotated[LollygagDB, "first of them"],
        bare=None,
    ) -> dict[str, Owner]:
        return {}

    signature = inspect.signature(auto_inject(endpoint))
    found = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    assert found["number"].__metadata__[1] == "kept"
    assert found["nested"] == list[Owner] | None
    assert found["nothing"] is None
    assert found["db"].__metadata__[0] == "first of them"
    assert found["bare"] is inspect.Parameter.empty
    assert signature.return_annotation == dict[str, Owner]


async def _returns_nothing(db: LollygagDB) -> None: ...


async def test_a_route_that_returns_nothing_may_answer_204() -> None:
    endpoint = auto_inject(functools.partial(_returns_nothing))
    assert (await post(endpoint, status_code=204)).status_code == 204


async def _returns_owner(db: LollygagDB) -> Owner:
    return {"name": db, "secret": 1}  # type: ignore[return-value]


async def test_the_return_annotation_is_the_response_model_of_a_partial_too() -> None:
    response = await post(auto_inject(functools.partial(_returns_owner)))
    assert response.json() == {"name": "transaction"}


async def _for_checkers(db: LollygagDB, price: Decimal | None = None) -> Decimal | None:
    return price


def test_a_name_that_only_type_checkers_see_is_left_for_fastapi_to_report() -> None:
    signature = inspect.signature(auto_inject(_for_checkers))
    assert signature.parameters["price"].annotation == "Decimal | None"
    assert signature.return_annotation == "Decimal | None"
    assert (
        signature.parameters["db"].annotation
        == Annotated[LollygagDB, fastapi.Depends(LollygagDB.transaction, scope="function")]
    )


@pytest.mark.skipif(sys.version_info < (3, 14), reason="earlier versions evaluate annotations at once")
def test_on_python_3_14_such_a_name_is_left_without_the_future_import() -> None:
    namespace: dict[str, Any] = {"LollygagDB": LollygagDB, "__name__": __name__}
    exec(compile("def endpoint(db: LollygagDB, price: Decimal): ...", "<route>", "exec", dont_inherit=True), namespace)
    parameters = inspect.signature(auto_inject(namespace["endpoint"])).parameters
    assert parameters["db"].annotation.__origin__ is LollygagDB
    assert "Decimal" in repr(parameters["price"].annotation)


def test_a_default_with_a_marker_of_fastapi_is_left_alone() -> None:
    default: Any = fastapi.Depends(LollygagDB.no_transaction)

    def endpoint(db: LollygagDB = default) -> None: ...

    parameter = inspect.signature(auto_inject(endpoint)).parameters["db"]
    assert parameter.annotation is LollygagDB
    assert parameter.default is default


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax of PEP 695 is that of Python 3.12")
def test_a_type_alias_of_python_3_12_is_followed_for_what_is_injected_only() -> None:
    namespace: dict[str, Any] = {"LollygagDB": LollygagDB, "Owner": Owner, "__name__": __name__}
    source = """
type Database = LollygagDB
type Owners = list[Owner]
type Unknown = NotDefined
def endpoint(db: Database, owners: Owners, unknown: Unknown) -> Owners: ...
"""
    exec(compile(source, "<route>", "exec", dont_inherit=True), namespace)
    signature = inspect.signature(auto_inject(namespace["endpoint"]))
    found = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    assert found["db"].__origin__ is LollygagDB
    assert found["owners"] is namespace["Owners"]
    assert found["unknown"] is namespace["Unknown"]
    assert signature.return_annotation is namespace["Owners"]


async def look(config: Config, properties: AvailableSecurityProperties, number: int) -> Any:
    return [config, properties, number]


class LookTask(BaseTask):
    async def execute(self, config: Config, properties: AvailableSecurityProperties) -> Any:
        return [config, properties]


async def test_config_and_security_properties_need_no_auto_inject_in_a_route() -> None:
    assert (await post(look)).json() == ["config", "properties", 7]
    assert (await post(auto_inject(functools.partial(look)))).json() == ["config", "properties", 7]


async def test_config_and_security_properties_are_injected_into_a_task_as_well() -> None:
    resources = Resources(SERVED)
    invocation = resources.prepare(LookTask)
    async with resources.opened():
        assert await invocation(LookTask()) == ["config", "properties"]


class TestParameters:
    """`auto_inject_depends` rewrites the parameters of a signature, as diracx-routers asks for each route."""

    def test_only_what_is_injected_changes(self) -> None:
        async def dependency() -> AsyncIterator[str]:
            yield "value"

        kind = inspect.Parameter.KEYWORD_ONLY
        annotations: dict[str, Any] = {
            "bare": LollygagDB,
            "raw": NoTransaction[LollygagDB],
            "raw_by_instance": Annotated[LollygagDB, NoTransaction()],  # type: ignore[type-arg]
            "logs": LogsDB,
            "settings": GarageSettings,
            "ours": Annotated[str, Depends(dependency)],
            "theirs": Annotated[LollygagDB, fastapi.Depends(LollygagDB.transaction)],
            "plain": str,
            "text": "LollygagDB",
        }
        given = [inspect.Parameter(name, kind, annotation=found) for name, found in annotations.items()]
        before = list(given)
        found = {parameter.name: parameter for parameter in auto_inject_depends(given)}

        function: dict[str, Any] = {"scope": "function"}
        raw = Annotated[LollygagDB, fastapi.Depends(LollygagDB.no_transaction, **function)]
        assert {name: parameter.annotation for name, parameter in found.items()} == {
            "bare": Annotated[LollygagDB, fastapi.Depends(LollygagDB.transaction, **function)],
            "raw": raw,
            "raw_by_instance": raw,
            "logs": Annotated[LogsDB, fastapi.Depends(LogsDB.session, **function)],
            "settings": Annotated[GarageSettings, fastapi.Depends(GarageSettings.create)],
            "ours": Annotated[str, fastapi.Depends(dependency, **function)],
            "theirs": annotations["theirs"],
            "plain": str,
            "text": "LollygagDB",
        }
        assert all(parameter.kind is kind for parameter in found.values())
        assert given == before
        assert found["plain"] is given[7]

    def test_a_callable_is_refused_with_what_to_write(self) -> None:
        with pytest.raises(TypeError, match=r"write Depends\(auto_inject\(_check\)\)"):
            auto_inject_depends(_check)  # type: ignore[arg-type]
