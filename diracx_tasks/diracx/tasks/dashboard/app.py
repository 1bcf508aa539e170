"""The routes of the dashboard: pages, their streams of events, actions, jobs, the session, health."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from diracx.tasks.dashboard.access import SESSION_SECONDS, TOKEN_HOLDER, Gate, Visitor
from diracx.tasks.dashboard.actions import COUNTED, Action, Job, Jobs, RefusedError, job_page
from diracx.tasks.dashboard.event_stream import EventStream
from diracx.tasks.dashboard.guard import Guard, visitor_of
from diracx.tasks.dashboard.live import Live, Parts, TooManyViewersError
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page
from diracx.tasks.dashboard.rendering import Renderer
from diracx.tasks.plumbing.exceptions import ServerError, TaskError
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.operations.alerts import command_line

STATIC: Final = Path(__file__).with_name("static")
OWN_NAMES: Final = frozenset({"actions", "events", "job", "live", "login", "logout", "ready", "static"})
"""How the paths begin that are no pages of the mesh."""
MAX_FORM_BYTES: Final = 1 << 17
MAX_FORM_VALUES: Final = 2_000
MAX_VALUE_CHARS: Final = 1_000
"""A value in the address of a page is cut there."""
MAX_NEXT_CHARS: Final = 4_000
"""Of the address of a confirmation page that is shown after signing in."""
WRONG_TOKEN_SECONDS: Final = 0.5
"""The answer to a wrong token takes so long."""


class Dashboard:
    """One dashboard of one mesh.

    Args:
        cookie: The name of the cookie of its sessions: browsers keep cookies by host, whatever the port.
    """

    def __init__(
        self, mesh: Mesh, gate: Gate, pages: Iterable[Page], actions: Iterable[Action], cookie: str = "dashboard"
    ) -> None:
        self.mesh, self.gate, self.jobs = mesh, gate, Jobs()
        self._cookie, self._root = cookie, gate.settings.root_path
        self._actions = {each.name: each for each in actions}
        shown = [*pages, job_page(self.jobs)]
        self._pages = {each.name: each for each in shown}
        navigation = [each for each in shown if each.in_navigation]
        shared = {
            "namespace": mesh.namespace.name,
            "run": partial(command_line, mesh.namespace.name),
            "navigation": navigation,
            "signs_out": gate.settings.token is not None,
        }
        self.renderer = Renderer(self._root, shared)
        self.live = Live(self._news, mesh.connection.clock.now)
        errors: Any = {
            HTTPException: self._http_error,
            TaskError: self._task_error,
            ClientDisconnect: self._gone,
            Exception: self._bug,
        }
        site = Starlette(routes=self._routes(shown), exception_handlers=errors)
        site.router.redirect_slashes = False  # it would lead to a host and a path that a proxy has changed
        # Outside all else, so that every answer has the headers.
        self.app = Guard(site, gate, cookie, self._ended)

    def _routes(self, pages: Iterable[Page]) -> list[Route | Mount]:
        return [
            *(Route(page.path, partial(self._show, page)) for page in pages),
            Route("/events/{page}", self._events),
            Route("/actions/{name}", self._confirm, methods=["GET"]),
            Route("/actions/{name}", self._act, methods=["POST"]),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/live", self._alive),
            Route("/ready", self._ready),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

    async def close(self) -> None:
        """End all streams, jobs and readings."""
        await self.live.close()
        await self.jobs.end()
        await self.mesh.end()

    # Pages

    def _may_act(self, visitor: Visitor) -> bool:
        return visitor.may_act and not self.mesh.read_only

    def _news(self, problem: str | None, since: datetime | None, *, live: bool = True) -> str:
        return self.renderer.render("news.html", problem=problem, since=since, live=live)

    async def _read(self, page: Page, query: QueryParams, may_act: bool) -> tuple[Parts, Mapping[str, Any]]:
        """The parts of a page, and the variables of its templates."""
        variables: dict[str, Any] = {"may_act": may_act, "query": query, "now": self.mesh.connection.clock.now()}
        variables["going_on"] = self.jobs.running()
        await self.mesh.answers.get()
        try:
            variables |= await page.view(self.mesh, query)
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            raise ServerError(
                f"a stream or bucket of the namespace {self.mesh.namespace.name} is missing on this server: "
                "`diracx-task-run setup` creates what is missing"
            ) from None
        return self.renderer.parts(page, variables), variables

    async def _parts(self, page: Page, query: QueryParams, may_act: bool) -> Parts:
        return (await self._read(page, query, may_act))[0]

    def _around(self, request: Request, page: Page | None, query: QueryParams) -> dict[str, Any]:
        """The variables of the frame around a page."""
        visitor = visitor_of(request)
        job = self.jobs.get(request.query_params.get("told", ""))
        return {
            "page": page,
            "title": "" if page is None else page.title,
            "visitor": visitor,
            "read_only": self.mesh.read_only,
            "may_act": self._may_act(visitor),
            "query": query,
            "told": job if job is not None and job.result is not None else None,
            "news": "",
            "events": "" if page is None else self.renderer.url(f"/events/{page.name}", **dict(query)),
        }

    async def _show(self, page: Page, request: Request) -> Response:
        query = _query_of(page, request)
        around = self._around(request, page, query)
        try:
            parts, variables = await self._read(page, query, around["may_act"])
        except ServerError as error:
            around |= {"news": self._news(str(error), None)}
            text = self.renderer.render("unavailable.html", **around, problem=str(error))
            return HTMLResponse(text, 503)
        # Its stream says that it is live: without scripts it is not.
        news = self._news(None, self.mesh.connection.clock.now(), live=False)
        return HTMLResponse(self.renderer.page(page, parts, {**variables, **around, "news": news}))

    async def _events(self, request: Request) -> Response:
        page = self._pages.get(request.path_params["page"])
        if page is None:
            raise HTTPException(404)
        query, may_act = _query_of(page, request), self._may_act(visitor_of(request))
        key = (page.name, str(query), str(may_act))
        try:
            self.live.check_room()
        except TooManyViewersError as error:
            return PlainTextResponse(f"{error}\n", 503)
        read = partial(self._parts, page, query, may_act)
        return EventStream(partial(self.live.events, key, read, page.every), partial(self._is_still_in, request))

    def _is_still_in(self, request: Request) -> bool:
        cookie = request.cookies.get(self._cookie, "")
        return self.gate.visitor(request.client.host if request.client else "", request.headers, cookie) is not None

    # Actions

    def _action(self, request: Request) -> Action:
        action = self._actions.get(request.path_params["name"])
        if action is None:
            raise HTTPException(404)
        if self.mesh.read_only:
            raise HTTPException(403, "this dashboard is read-only: it was started so, or has an observer's access")
        if not visitor_of(request).may_act:
            raise HTTPException(403, f"{visitor_of(request).name} may look, but not act")
        return action

    async def _confirm(self, request: Request) -> Response:
        asked = [each for each in request.query_params.multi_items() if each[0] not in COUNTED]
        plan = await self._action(request).plan(self.mesh, QueryParams(asked))
        around = self._around(request, None, request.query_params) | {"title": plan.title}
        return HTMLResponse(
            self.renderer.render(
                "confirm.html", **around, plan=plan, action=request.path_params["name"], form=secrets.token_urlsafe(9)
            )
        )

    async def _act(self, request: Request) -> Response:
        action, values, visitor = self._action(request), await _form_of(request), visitor_of(request)
        if not self.gate.is_csrf(visitor, values.get("csrf", "")):
            raise HTTPException(403, "the form is not of this session: load the page again")
        # Before it is planned anew, which fails if it has been done: there is nothing left to do.
        job = self.jobs.sent(values.get("form", ""), visitor)
        if job is None:
            plan = await action.plan(self.mesh, values)
            job = await self.jobs.start(action, self.mesh, values, plan, visitor)
            self.live.forget()
        return self._told(job)

    def _told(self, job: Job) -> Response:
        """Lead to the result of a job, or to its page while it runs."""
        if job.result is None:
            return RedirectResponse(self.renderer.url("/job", id=job.id), 303)
        joint = "&" if "?" in job.back else "?"
        return RedirectResponse(f"{self._root}{job.back}{joint}told={job.id}", 303)

    # Sessions

    async def _login(self, request: Request) -> Response:
        values = await _form_of(request) if request.method == "POST" else request.query_params
        sender, then = self._sender(request), _own_path(values.get("next", "/"))
        if self.gate.settings.token is None:
            return RedirectResponse(f"{self._root}/", 303)
        wait, problem = self.gate.seconds_to_wait(*sender), None
        if token := values.get("token", ""):
            session = self.gate.log_in(token, *sender)
            if session is not None:
                answer: Response = RedirectResponse(f"{self._root}{then}", 303)
                self._set_cookie(answer, request, session, SESSION_SECONDS)
                return answer
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            problem = f"too many wrong tokens: wait {wait:.0f} s" if wait else "the token is wrong"
        status = 429 if wait else 403 if problem else 200
        answer = HTMLResponse(self.renderer.render("login.html", problem=problem, next=then), status)
        if wait:
            answer.headers["retry-after"] = f"{wait:.0f}"
        return answer

    async def _ended(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a form whose session has ended: after signing in, its confirmation page asks anew."""
        try:
            values = await _form_of(Request(scope, receive))
        except (HTTPException, ClientDisconnect):
            values = QueryParams()
        again = [each for each in values.multi_items() if each[0] not in (*COUNTED, "csrf", "form")]
        then = f"{scope['path']}?{urlencode(again)}"
        if not again or len(then) > MAX_NEXT_CHARS or not scope["path"].startswith("/actions/"):
            then = "/"
        text = self.renderer.render("login.html", problem="the session has ended, and nothing was done", next=then)
        await HTMLResponse(text, 401)(scope, receive, send)

    def _sender(self, request: Request) -> tuple[str, str]:
        forwarded = request.headers.getlist("x-forwarded-for")
        return self.gate.sender(request.client.host if request.client else "", forwarded)

    async def _logout(self, request: Request) -> Response:
        values, visitor = await _form_of(request), visitor_of(request)
        if not self.gate.is_csrf(visitor, values.get("csrf", "")):
            raise HTTPException(403, "the form is not of this session: load the page again")
        if visitor.name == TOKEN_HOLDER:
            self.gate.end_session(request.cookies.get(self._cookie, ""))
        answer = RedirectResponse(f"{self._root}/login", 303)
        self._set_cookie(answer, request, "", 0)
        return answer

    def _set_cookie(self, answer: Response, request: Request, value: str, seconds: int) -> None:
        proxied = request.client is not None and request.client.host in self.gate.settings.proxies
        secure = request.url.scheme == "https" or (proxied and request.headers.get("x-forwarded-proto") == "https")
        answer.set_cookie(
            self._cookie, value, seconds, path=self._root or "/", httponly=True, samesite="strict", secure=secure
        )

    # Health and errors

    async def _alive(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, request: Request) -> Response:
        if not self.mesh.connection.is_connected:
            return PlainTextResponse("not connected to NATS\n", 503)
        try:
            await self.mesh.answers.get()
        except TaskError as error:
            return PlainTextResponse(f"the mesh does not answer: {error}\n", 503)
        return PlainTextResponse("ok\n")

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        texts = {404: "there is no such page", 405: "this page is not for that"}
        return self._problem(request, texts.get(error.status_code, error.detail), error.status_code)

    async def _task_error(self, request: Request, error: TaskError) -> Response:
        return self._problem(request, str(error), 409 if isinstance(error, RefusedError) else 503)

    async def _gone(self, request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it

    async def _bug(self, request: Request, error: Exception) -> Response:
        return self._problem(request, "an unforeseen error, see the log of the dashboard", 500)

    def _problem(self, request: Request, text: str, status: int) -> Response:
        if getattr(request.state, "visitor", None) is None:
            return PlainTextResponse(f"{text}\n", status)
        around = self._around(request, None, QueryParams()) | {
            "title": "It was not done" if status == 409 else "Problem"
        }
        return HTMLResponse(self.renderer.render("problem.html", **around, problem=text), status)


def _query_of(page: Page, request: Request) -> QueryParams:
    """The parameters that a page reads, cut to a length that no name or id has."""
    given = request.query_params
    return QueryParams([(name, given[name][:MAX_VALUE_CHARS]) for name in page.query if given.get(name)])


async def _form_of(request: Request) -> QueryParams:
    """The values of a form that a browser sent.

    Raises:
        HTTPException: It is no such form, or too long.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise HTTPException(415, "this is no form")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "the form is too long")
    try:
        values = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_FORM_VALUES)
    except ValueError:
        raise HTTPException(413, "the form has too many values") from None
    return QueryParams(values)


def _own_path(path: str) -> str:
    """A path of this site; `/` for anything else, which could lead elsewhere."""
    own = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if own else "/"
