"""What every request passes: the host, the path below a proxy, who asks; and the headers of every answer.

The content security policy allows the files of this site and nothing else: no inline script or style, no other host, no
frame. Pages are never stored; the style sheet and the script are checked for changes at each use.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diracx.tasks.dashboard.access import Gate, Visitor

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
OPEN_PATHS: Final = ("/live", "/ready", "/login")
"""These and the static files need no session: they tell nothing of the mesh."""
STATIC: Final = "/static/"
EVENTS: Final = "/events/"


class Guard:
    """Lets a request pass, or answers it.

    Args:
        cookie: The name of the cookie of a session.
        ended: Answers a form that is sent without a session.
    """

    def __init__(self, app: ASGIApp, gate: Gate, cookie: str, ended: ASGIApp) -> None:
        self._app, self._gate, self._cookie, self._ended = app, gate, cookie, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # there are no web sockets, and no lifespan
            return
        scope["path"] = path = self._below_root(scope["path"])
        static = path.startswith(STATIC)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["cache-control"] = "no-cache" if static else "no-store"
            await send(message)

        refusal = self._refusal(scope, path, static)
        await (self._app if refusal is None else refusal)(scope, receive, send_with_headers)

    def _below_root(self, path: str) -> str:
        """The path without that of the proxy, whether the proxy has cut it off or not."""
        root = self._gate.settings.root_path
        if root and (path == root or path.startswith(f"{root}/")):
            return path.removeprefix(root) or "/"
        return path

    def _refusal(self, scope: Scope, path: str, static: bool) -> ASGIApp | None:
        """What to answer in place of the page; None: the request may pass. It names the visitor in the state."""
        headers = Headers(scope=scope)
        if (why := self._gate.why_not_host(headers.get("host", ""))) is not None and path not in ("/live", "/ready"):
            return PlainTextResponse(f"{why}\n", 421)
        if scope["method"] not in ("GET", "HEAD") and (why := self._gate.why_not_posted_here(headers)) is not None:
            return PlainTextResponse(f"{why}\n", 403)
        user_header = self._gate.settings.user_header
        if user_header is not None and len(headers.getlist(user_header)) > 1:
            # A proxy that adds its header instead of replacing it lets its visitor choose the first one.
            return PlainTextResponse(f"more than one header {user_header}: the proxy has to replace it\n", 400)
        client = scope.get("client")
        visitor = self._gate.visitor(client[0] if client else "", headers, self._session(scope))
        scope.setdefault("state", {})["visitor"] = visitor
        if visitor is not None or static or path in OPEN_PATHS:
            return None
        return self._without_session(scope, path)

    def _without_session(self, scope: Scope, path: str) -> ASGIApp:
        if self._gate.settings.token is None:
            return PlainTextResponse(
                "the proxy in front of the dashboard names no user, or is not the one expected\n", 401
            )
        if scope["method"] == "POST":
            return self._ended
        if path.startswith(EVENTS) or scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("there is no session: load the page again\n", 401)
        asked = path + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
        then = "" if asked == "/" else f"?next={quote(asked, safe='')}"
        return RedirectResponse(f"{self._gate.settings.root_path}/login{then}", 303)

    def _session(self, scope: Scope) -> str:
        return Request(scope).cookies.get(self._cookie, "")


def visitor_of(request: Request) -> Visitor:
    """Who makes a request that has passed the guard."""
    visitor = request.state.visitor
    assert isinstance(visitor, Visitor)
    return visitor
