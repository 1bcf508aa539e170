"""What a browser gets, and what it is refused."""

from __future__ import annotations

import html
import re
from typing import Any

import httpx
import pytest

from diracx.tasks.dashboard.access import MAX_FAILURES
from diracx.tasks.dashboard.guard import HEADERS
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from support.dashboards import TOKEN, listening, signed_in
from support.operated_mesh import NAMES, operated_mesh
from support.secured import connected, secured_server

PAGES = ("/", "/tasks", "/task?id=nothing", "/dead-letters", "/schedules", "/locks", "/configuration", "/job?id=none")
FRAMES = ("/live", "/ready", "/login", "/static/style.css", "/static/live.js", "/static/icon.svg")


async def test_without_a_session_there_is_nothing_to_see(connection: Connection, topology: Namespace) -> None:
    async with listening(connection, topology) as site:
        for path in PAGES:
            answer = await site.client.get(path)
            assert (answer.status_code, answer.content) == (303, b""), path
            assert answer.headers["location"].startswith("/login")
        assert (await site.client.get("/events/overview")).status_code == 401
        assert (await site.client.post("/actions/pause", data={"queue": "normal-small"})).status_code == 401
        for path in FRAMES:
            assert (await site.client.get(path)).status_code == 200, path


async def test_the_link_leads_to_the_page_that_was_asked_for(connection: Connection, topology: Namespace) -> None:
    async with listening(connection, topology) as site:
        asked = await site.client.get("/tasks?state=dead")
        form = await site.client.get(asked.headers["location"])
        assert 'name="next" value="/tasks?state=dead"' in form.text
        answer = await site.client.post("/login", data={"token": TOKEN, "next": "/tasks?state=dead"})
        assert answer.headers["location"] == "/tasks?state=dead"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        for path in PAGES:
            assert (await site.client.get(path)).status_code == 200, path


@pytest.mark.parametrize("path", ["//evil.example.org", "https://evil.example.org", "/\\evil.example.org", "/\n", ""])
async def test_no_link_leads_elsewhere(connection: Connection, topology: Namespace, path: str) -> None:
    async with listening(connection, topology) as site:
        answer = await site.client.get("/login", params={"token": TOKEN, "next": path})
        assert answer.headers["location"] == "/"


async def test_a_wrong_token_is_refused_and_after_some_its_address_waits(
    connection: Connection, topology: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diracx.tasks.dashboard.app.WRONG_TOKEN_SECONDS", 0.0)
    async with listening(connection, topology) as site:
        for _ in range(MAX_FAILURES):
            assert (await site.client.post("/login", data={"token": "wrong"})).status_code == 403
        answer = await site.client.post("/login", data={"token": TOKEN})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0


async def test_every_answer_has_the_headers_that_keep_a_browser_safe(
    connection: Connection, topology: Namespace
) -> None:
    async with signed_in(connection, topology) as site:
        for path in (*PAGES, *FRAMES, "/nowhere", "/static/nowhere", "/actions/pause?queue=nowhere"):
            answer = await site.client.get(path)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
            assert answer.headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
        refused = await site.client.get("/", headers={"host": "evil.example.org"})
        assert refused.status_code == 421
        assert {name: refused.headers.get(name) for name in HEADERS} == HEADERS


async def test_a_page_has_no_script_or_style_of_its_own(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        for path in PAGES:
            text = (await site.client.get(path)).text
            assert " style=" not in text
            assert "<style" not in text
            assert text.count("<script") == 1
            assert " on" not in "".join(part.partition(">")[0] for part in text.split("<"))


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example.org"}, {"host": "evil.example.org"}],
    ids=str,
)
async def test_a_post_of_another_site_changes_nothing(
    connection: Connection, topology: Namespace, headers: dict[str, str]
) -> None:
    async with signed_in(connection, topology) as site:
        values = await site.form("/actions/pause", queue="normal-small")
        answer = await site.client.post("/actions/pause", data=values, headers=headers)
        assert answer.status_code in (403, 421)
        assert await unpaused(connection, topology)


async def test_a_form_whose_session_has_ended_is_asked_again_after_signing_in(
    connection: Connection, topology: Namespace
) -> None:
    async with signed_in(connection, topology) as site:
        values = await site.form("/actions/pause", queue="normal-small")
        site.client.cookies.clear()
        answer = await site.client.post("/actions/pause", data=values | {"seconds": "900"})
        assert answer.status_code == 401
        assert "The session has ended, and nothing was done" in answer.text
        (then,) = re.findall(r'name="next" value="([^"]*)"', answer.text)
        answer = await site.client.post("/login", data={"token": TOKEN, "next": html.unescape(then)})
        assert answer.headers["location"].startswith("/actions/pause?queue=normal-small")
        assert "Pause it" in (await site.client.get(answer.headers["location"])).text
        assert "Pause normal-small" in await site.text("/")
        # What cannot be asked again leads to the overview.
        site.client.cookies.clear()
        for sent in ({"content": b"{}"}, {"data": {"seq": ["1" * 9] * 1_000}}):
            answer = await site.client.post("/actions/purge", **sent)
            assert (answer.status_code, 'name="next" value="/"' in answer.text) == (401, True)


@pytest.mark.parametrize("csrf", ["", "0" * 64])
async def test_a_form_without_the_token_of_its_session_changes_nothing(
    connection: Connection, topology: Namespace, csrf: str
) -> None:
    async with signed_in(connection, topology) as site:
        answer = await site.client.post("/actions/pause", data={"queue": "normal-small", "csrf": csrf})
        assert answer.status_code == 403
        assert (await site.client.post("/logout", data={"csrf": csrf})).status_code == 403
        assert await unpaused(connection, topology)


async def test_reading_an_action_changes_nothing_and_unknown_ones_are_not_there(
    connection: Connection, topology: Namespace
) -> None:
    async with signed_in(connection, topology) as site:
        assert (await site.client.get("/actions/pause", params={"queue": "normal-small"})).status_code == 200
        assert (await site.client.get("/actions/nothing")).status_code == 404
        assert (await site.client.put("/actions/pause")).status_code == 405
        assert (await site.client.post("/actions/pause", content=b"{}")).status_code == 415
        assert (await site.client.post("/actions/pause", data={"x": "y" * (1 << 21)})).status_code == 413
        assert await unpaused(connection, topology)


async def test_a_dashboard_that_is_read_only_offers_no_action(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology, read_only=True) as site:
        assert "/actions/" not in await site.text("/")
        assert "read-only" in await site.text("/")
        assert (await site.client.get("/actions/pause", params={"queue": "normal-small"})).status_code == 403


async def test_an_observer_sees_all_pages_and_changes_nothing() -> None:
    with secured_server(NAMES.name) as server:
        async with (
            operated_mesh(server),
            connected(server, NAMES.name, "observer") as observer,
            signed_in(observer, NAMES) as site,
        ):
            for path in PAGES:
                text = await site.text(path)
                assert "/actions/" not in text
                assert "read-only" in text
            assert "lollygag:SyncOwnersTask" in await site.text("/tasks")
            await site.sees("overview", "workers", "small")
            assert (await site.client.get("/actions/pause", params={"queue": "normal-small"})).status_code == 403
            async with connected(server, NAMES.name, "operator") as operator, signed_in(operator, NAMES) as other:
                assert "/actions/pause" in await other.text("/")


async def test_a_user_who_may_not_ask_the_workers_sees_the_rest() -> None:
    with secured_server(NAMES.name, without=["$SRV."]) as server:
        async with (
            connected(server, NAMES.name, "operator") as operator,
            signed_in(operator, NAMES) as site,
        ):
            await ensure(operator, assets(NAMES), tolerant=False)
            assert "What failed cannot be told: " in await site.text("/tasks")
            assert "No periodic task is installed" in await site.text("/schedules")


async def test_the_users_of_a_proxy_need_no_token_and_only_operators_act(
    connection: Connection, topology: Namespace
) -> None:
    settings: dict[str, Any] = {"token": None, "user_header": "X-Remote-User", "operators": frozenset({"alice"})}
    async with listening(connection, topology, **settings) as site:
        assert (await site.client.get("/")).status_code == 401
        for user, status in (("alice", 200), ("bob", 403)):
            site.client.headers["X-Remote-User"] = user
            assert user in await site.text("/")
            answer = await site.client.get("/actions/pause", params={"queue": "normal-small"})
            assert answer.status_code == status
            assert ("/actions/pause" in await site.text("/")) == (user == "alice")
        assert (await site.client.get("/login")).status_code == 303


async def test_a_second_user_header_is_refused_since_the_visitor_may_have_sent_it(
    connection: Connection, topology: Namespace
) -> None:
    async with listening(connection, topology, token=None, user_header="X-Remote-User") as site:
        headers = [("X-Remote-User", "alice"), ("X-Remote-User", "bob")]
        assert (await site.client.get("/", headers=headers)).status_code == 400
        assert (await site.client.get("/", headers={"X_Remote_User": "alice"})).status_code == 401


async def test_a_user_header_from_elsewhere_than_the_proxy_is_not_believed(
    connection: Connection, topology: Namespace
) -> None:
    settings: dict[str, Any] = {"token": None, "user_header": "X-Remote-User", "proxies": frozenset({"192.0.2.1"})}
    async with listening(connection, topology, **settings) as site:
        assert (await site.client.get("/", headers={"X-Remote-User": "alice"})).status_code == 401


@pytest.mark.parametrize("cut", [True, False], ids=["cut off by the proxy", "left by the proxy"])
async def test_a_proxy_may_show_it_under_a_path(connection: Connection, topology: Namespace, cut: bool) -> None:
    root = "/diracx-tasks"
    async with listening(connection, topology, root_path=root) as site:
        top = "" if cut else root
        assert (await site.client.get(f"{top}/")).headers["location"] == f"{root}/login"
        answer = await site.client.get(f"{top}/login", params={"token": TOKEN})
        assert f"Path={root}" in answer.headers["set-cookie"]
        session = answer.headers["set-cookie"].partition(";")[0]
        for path, name in (("/", "overview"), ("/tasks", "tasks"), ("/locks", "locks"), ("/task?id=7", "task")):
            page = await site.client.get(f"{top}{path}", headers={"cookie": session})
            assert f'href="{root}/static/style.css"' in page.text
            assert f'data-events="{root}/events/{name}' in page.text


async def test_who_signs_out_has_no_session_any_more(connection: Connection, topology: Namespace) -> None:
    async with signed_in(connection, topology) as site:
        cookies = httpx.Cookies(site.client.cookies)
        text = await site.text("/")
        csrf = text.partition('name="csrf" value="')[2].partition('"')[0]
        assert (await site.client.post("/logout", data={"csrf": csrf})).status_code == 303
        async with httpx.AsyncClient(base_url=site.url, cookies=cookies) as thief:
            assert (await thief.get("/")).status_code == 303


async def unpaused(connection: Connection, names: Namespace) -> bool:
    info = await connection.api(f"CONSUMER.INFO.{names.tasks_stream}.normal-small")
    return not info.get("paused")
