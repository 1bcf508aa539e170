"""Who may look at the dashboard, and who may act.

    token         a session begins with the token, in the link that the command prints or in a form; a cookie keeps it
    user header   a reverse proxy has checked the user and names it in a header; only the proxy's address is believed

* A cookie holds a random name and the time, signed with a key that only who knows the token can make. So it outlives a
  restart with the same token, and nothing else.
* What changes anything is a POST with the CSRF token of its session. A browser that says where the request comes from
  (`Sec-Fetch-Site`, or else `Origin`) must name this site.
* On loopback the `Host` of a request must be a name of this machine: a foreign page whose name was bent to 127.0.0.1
  (DNS rebinding) is refused.
* Secrets are compared in constant time. After `MAX_FAILURES` wrong tokens an address waits. Behind a proxy that is the
  address that the proxy names, so that one user does not shut out the others; all behind it together have a limit, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diracx.tasks.dashboard.words import visible
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import shown

logger = logging.getLogger("diracx.tasks.dashboard")

SESSION_SECONDS: Final = 12 * 3_600
"""After this time a session asks for the token again."""
MAX_FAILURES: Final = 5
"""So many wrong tokens an address may give within `FAILURE_SECONDS`."""
MAX_FAILURES_OF_PROXY: Final = 100
"""So many all may give that one proxy, or one who passes for it, names."""
FAILURE_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 1_000
"""The addresses whose failures are kept, and the sessions that are known to have ended."""
PROXIES: Final = frozenset({"127.0.0.1", "::1"})
"""Where a reverse proxy is expected."""
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
TOKEN_HOLDER: Final = "the holder of the token"  # noqa: S105  # a name
"""Who acts, where only the token is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who is let in. At least one of `token` and `user_header` is set."""

    token: str | None
    user_header: str | None = None
    """The header in which a reverse proxy names its user."""
    proxies: frozenset[str] = PROXIES
    """The addresses from which that header is believed."""
    operators: frozenset[str] = frozenset()
    """The users who may act; empty: all who are let in."""
    acts: bool = True
    """Whether anybody may act."""
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    """The names of this site in `Host`, without a port; None: any."""
    root_path: str = ""
    """The path under which a reverse proxy shows the dashboard, e.g. `/tasks`; empty: at the top."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who makes a request."""

    name: str
    """The user of the proxy, or `TOKEN_HOLDER`."""
    may_act: bool
    csrf: str
    """What each form of this visitor carries."""


def is_loopback(host: str) -> bool:
    """Whether an address that is listened on is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """Decides about requests.

    Args:
        now: The time in seconds since 1970, for the age of sessions.
        clock: Counts the time between wrong tokens.
    """

    def __init__(self, settings: AccessSettings, now: Clock = time.time, clock: Clock = boottime) -> None:
        self.settings = settings
        self._now, self._clock = now, clock
        secret = settings.token.encode() if settings.token is not None else secrets.token_bytes()
        self._key = hashlib.sha256(b"diracx-tasks dashboard\0" + secret).digest()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def why_not_host(self, host: str) -> str | None:
        """Why a `Host` header is refused; None: it is not."""
        names = self.settings.hosts
        name = host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()
        if names is None or name in names:
            return None
        return f"{shown(host)!r} is not a name of this site; --allowed-host adds one"

    def why_not_posted_here(self, headers: Mapping[str, str]) -> str | None:
        """Why a POST is refused by where its browser says that it comes from; None: it is not."""
        fetched_from, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if fetched_from is not None:
            # Without a referrer a browser writes `Origin: null`, also for our own forms.
            return None if fetched_from == "same-origin" else "the request comes from another site"
        if origin is None or origin == "null":
            return None
        ours = origin.rpartition("://")[2].lower() == headers.get("host", "").lower()
        return None if ours else "the request comes from another site"

    def visitor(self, address: str, headers: Mapping[str, str], cookie: str) -> Visitor | None:
        """Who makes a request; None: nobody who is let in.

        Args:
            address: Of the other end of the connection.
            cookie: The value of the session's cookie; empty if there is none.
        """
        if self.settings.user_header is not None and address in self.settings.proxies:
            user = _in_unicode(headers.get(self.settings.user_header.lower(), ""))
            if user:
                return self._named(user, f"user {user}")
        if self.settings.token is not None and self._is_session(cookie):
            return self._named(TOKEN_HOLDER, f"session {cookie}")
        return None

    def _named(self, name: str, session: str) -> Visitor:
        named = not self.settings.operators or name in self.settings.operators
        return Visitor(name, self.settings.acts and named, self._signature(f"csrf {session}"))

    def sender(self, address: str, forwarded: Sequence[str]) -> tuple[str, str]:
        """Who gives a token: an address, and that of the proxy in front of it, which is empty if there is none.

        Args:
            address: Of the other end of the connection.
            forwarded: The values of the headers `X-Forwarded-For`; the last address is the one that the proxy wrote.
        """
        named = forwarded[-1].rpartition(",")[2].strip() if forwarded else ""
        try:
            return (str(ipaddress.ip_address(named)), address) if address in self.settings.proxies else (address, "")
        except ValueError:
            return address, ""

    def log_in(self, token: str, address: str, proxy: str = "") -> str | None:
        """Begin a session: the value of its cookie; None: the token is wrong, or this sender has to wait."""
        if self.seconds_to_wait(address, proxy) > 0:
            return None
        right = self.settings.token
        if right is not None and hmac.compare_digest(token.encode(), right.encode()):
            self._failures.pop(f"{address} {proxy}", None)
            name = f"{int(self._now())}.{secrets.token_urlsafe(16)}"
            return f"{name}.{self._signature(f'session {name}')}"
        for key, most in _limits(address, proxy):
            self._failures.setdefault(key, deque(maxlen=most)).append(self._clock())
            self._failures.move_to_end(key)
        _cut(self._failures)
        logger.warning("a wrong token from %s%s", address, f" behind {proxy}" if proxy else "")
        return None

    def seconds_to_wait(self, address: str, proxy: str = "") -> float:
        """How long a sender has to wait before it may give a token again; 0: it may now."""
        kept = [(self._failures.get(key, deque()), most) for key, most in _limits(address, proxy)]
        ends = [failures[0] + FAILURE_SECONDS for failures, most in kept if len(failures) == most]
        return max(0.0, max(ends, default=0.0) - self._clock())

    def end_session(self, cookie: str) -> None:
        """Let a session end before its time."""
        self._ended[cookie] = None
        _cut(self._ended)

    def _is_session(self, cookie: str) -> bool:
        name, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(f"session {name}").encode()):
            return False
        begun = name.partition(".")[0]
        return cookie not in self._ended and self._now() - int(begun) < SESSION_SECONDS

    def is_csrf(self, visitor: Visitor, given: str) -> bool:
        """Whether a form carries the CSRF token of its visitor."""
        return hmac.compare_digest(given.encode(), visitor.csrf.encode())

    def _signature(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _limits(address: str, proxy: str) -> list[tuple[str, int]]:
    """The counts of wrong tokens in which a sender is, each with its limit."""
    own = (f"{address} {proxy}", MAX_FAILURES)
    return [own, (f"all {proxy}", MAX_FAILURES_OF_PROXY)] if proxy else [own]


def _in_unicode(value: str) -> str:
    """The value of a header as its sender wrote it, in UTF-8; what controls a terminal is written as an escape."""
    with contextlib.suppress(UnicodeError):
        value = value.encode("latin-1").decode()
    return shown(str(visible(value)))


def _cut(kept: OrderedDict[str, deque[float]] | OrderedDict[str, None]) -> None:
    while len(kept) > MAX_ADDRESSES:
        kept.popitem(last=False)
