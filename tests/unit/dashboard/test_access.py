"""Who is let in, and who may act."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from diracx.tasks.dashboard.access import (
    FAILURE_SECONDS,
    LOOPBACK_NAMES,
    MAX_ADDRESSES,
    MAX_FAILURES,
    MAX_FAILURES_OF_PROXY,
    SESSION_SECONDS,
    TOKEN_HOLDER,
    AccessSettings,
    Gate,
    is_loopback,
)

TOKEN = "the-token-of-this-test"
HERE = "127.0.0.1"


class Times:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def gate(times: Times) -> Gate:
    return Gate(AccessSettings(token=TOKEN), now=times, clock=times)


def logged_in(gate: Gate) -> str:
    cookie = gate.log_in(TOKEN, HERE)
    assert cookie is not None
    return cookie


def test_the_token_begins_a_session_of_one_who_may_act(gate: Gate) -> None:
    visitor = gate.visitor(HERE, {}, logged_in(gate))
    assert visitor is not None
    assert (visitor.name, visitor.may_act) == (TOKEN_HOLDER, True)


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], f"{TOKEN}x", "schl\u00fcssel"])
def test_a_wrong_token_begins_none(gate: Gate, token: str) -> None:
    assert gate.log_in(token, HERE) is None


@pytest.mark.parametrize("cookie", ["", ".", "..", "1000000.a.b", "nonsense", "\u20ac.\u20ac"])
def test_nobody_comes_in_by_a_made_up_cookie(gate: Gate, cookie: str) -> None:
    assert gate.visitor(HERE, {}, cookie) is None


def test_a_cookie_that_was_changed_is_none(gate: Gate) -> None:
    begun, rest = logged_in(gate).split(".", 1)
    assert gate.visitor(HERE, {}, f"{int(begun) + 1}.{rest}") is None


def test_a_session_outlives_a_restart_with_the_same_token_and_no_other(gate: Gate, times: Times) -> None:
    cookie = logged_in(gate)
    assert Gate(AccessSettings(token=TOKEN), now=times).visitor(HERE, {}, cookie) is not None
    assert Gate(AccessSettings(token=f"{TOKEN}2"), now=times).visitor(HERE, {}, cookie) is None


def test_a_session_ends_with_its_time_and_when_it_is_ended(gate: Gate, times: Times) -> None:
    first, second = logged_in(gate), logged_in(gate)
    gate.end_session(first)
    assert gate.visitor(HERE, {}, first) is None
    assert gate.visitor(HERE, {}, second) is not None
    times.now += SESSION_SECONDS
    assert gate.visitor(HERE, {}, second) is None


def test_after_wrong_tokens_an_address_waits_and_others_do_not(gate: Gate, times: Times) -> None:
    for _ in range(MAX_FAILURES):
        assert gate.seconds_to_wait(HERE) == 0
        gate.log_in("wrong", HERE)
    assert gate.seconds_to_wait(HERE) == FAILURE_SECONDS
    assert gate.log_in(TOKEN, HERE) is None
    assert gate.log_in(TOKEN, "192.0.2.1") is not None
    times.now += FAILURE_SECONDS
    assert gate.log_in(TOKEN, HERE) is not None


@pytest.mark.parametrize(
    ("address", "forwarded", "sender"),
    [
        (HERE, ["192.0.2.1"], ("192.0.2.1", HERE)),
        (HERE, ["192.0.2.9, 192.0.2.1"], ("192.0.2.1", HERE)),
        (HERE, ["192.0.2.9", "192.0.2.1"], ("192.0.2.1", HERE)),
        (HERE, ["nobody"], (HERE, "")),
        (HERE, [], (HERE, "")),
        ("192.0.2.7", ["192.0.2.1"], ("192.0.2.7", "")),
    ],
)
def test_a_proxy_names_the_sender_and_nobody_else_does(
    gate: Gate, address: str, forwarded: list[str], sender: tuple[str, str]
) -> None:
    assert gate.sender(address, forwarded) == sender


def test_who_gives_wrong_tokens_through_a_proxy_does_not_shut_out_its_other_users(gate: Gate) -> None:
    for _ in range(MAX_FAILURES_OF_PROXY):
        gate.log_in("wrong", "192.0.2.1", HERE)
    assert gate.log_in(TOKEN, "192.0.2.1", HERE) is None
    assert gate.log_in(TOKEN, "192.0.2.2", HERE) is not None


def test_who_passes_for_a_proxy_gives_no_more_tokens_under_many_names(gate: Gate) -> None:
    for number in range(MAX_FAILURES_OF_PROXY):
        assert gate.seconds_to_wait("192.0.2.254", HERE) == 0
        gate.log_in("wrong", f"192.0.2.{number}", HERE)
    assert gate.log_in(TOKEN, "192.0.2.254", HERE) is None


def test_wrong_tokens_from_many_addresses_fill_no_memory(gate: Gate) -> None:
    for number in range(MAX_ADDRESSES + 10):
        gate.log_in("wrong", f"192.0.2.{number}")
    assert len(gate._failures) == MAX_ADDRESSES


def proxied(**settings: frozenset[str]) -> Gate:
    return Gate(AccessSettings(token=None, user_header="X-Remote-User", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "headers", "name"),
    [
        (HERE, {"x-remote-user": "alice"}, "alice"),
        ("::1", {"x-remote-user": "alice"}, "alice"),
        ("192.0.2.1", {"x-remote-user": "alice"}, None),
        (HERE, {"x-remote-user": "\u00c9ric".encode().decode("latin-1")}, "\u00c9ric"),
        (HERE, {"x-remote-user": "a\x9b31mb"}, "a\\x9b31mb"),
        (HERE, {"x-remote-user": ""}, None),
        (HERE, {}, None),
    ],
)
def test_only_the_proxy_names_users(address: str, headers: Mapping[str, str], name: str | None) -> None:
    visitor = proxied().visitor(address, headers, "")
    assert (None if visitor is None else visitor.name) == name


def test_only_operators_may_act_where_some_are_named() -> None:
    gate = proxied(operators=frozenset({"alice"}))
    may = {user: gate.visitor(HERE, {"x-remote-user": user}, "") for user in ("alice", "bob")}
    assert {user: visitor is not None and visitor.may_act for user, visitor in may.items()} == {
        "alice": True,
        "bob": False,
    }


def test_each_session_and_user_has_a_csrf_token_of_its_own(gate: Gate) -> None:
    one, other = (gate.visitor(HERE, {}, logged_in(gate)) for _ in range(2))
    assert one is not None
    assert other is not None
    assert gate.is_csrf(one, one.csrf)
    assert not gate.is_csrf(one, other.csrf)
    assert not gate.is_csrf(one, "")


@pytest.mark.parametrize(
    ("host", "hosts", "refused"),
    [
        ("127.0.0.1:8225", LOOPBACK_NAMES, False),
        ("LOCALHOST:8225", LOOPBACK_NAMES, False),
        ("localhost", LOOPBACK_NAMES, False),
        ("[::1]:8225", LOOPBACK_NAMES, False),
        ("[::1]", LOOPBACK_NAMES, False),
        ("evil.example.org:8225", LOOPBACK_NAMES, True),
        ("127.0.0.1.evil.example.org", LOOPBACK_NAMES, True),
        ("", LOOPBACK_NAMES, True),
        ("evil.example.org", None, False),
    ],
)
def test_a_host_that_is_no_name_of_this_site_is_refused(host: str, hosts: frozenset[str] | None, refused: bool) -> None:
    why = Gate(AccessSettings(token=TOKEN, hosts=hosts)).why_not_host(host)
    assert (why is not None) == refused


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "null"}, False),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://127.0.0.1:8225", "host": "127.0.0.1:8225"}, False),
        ({"origin": "http://127.0.0.1:9000", "host": "127.0.0.1:8225"}, True),
        ({"origin": "https://evil.example.org", "host": "127.0.0.1:8225"}, True),
        ({}, False),
    ],
)
def test_a_post_from_another_site_is_refused(gate: Gate, headers: Mapping[str, str], refused: bool) -> None:
    assert (gate.why_not_posted_here(headers) is not None) == refused


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("tasks", False),
    ],
)
def test_which_addresses_are_of_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
