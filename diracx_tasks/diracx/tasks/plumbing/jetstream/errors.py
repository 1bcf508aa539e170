"""What can go wrong between us and a NATS server.

* ServerError
  x PermissionDeniedError          the server forbids this user a subject
    - InboxDeniedError             the subject where its answers would come
  x PayloadTooLargeError           more bytes than the server takes in one message
  x ApiError                       JetStream understood the request and said no
  x ServerUnavailableError         nothing is known of what the server did with a request, if it got it
    - ServerUnreachableError       no listed server answered
    - AccessRefusedError           a server answered and would not have us: credentials, TLS
    - JetStreamUnavailableError    a server took us in, but has no JetStream for this account, or none now
    - NotConnectedError            the connection is down at the moment; it is being re-established
    - RequestTimeoutError          no reply in time
    - NoRespondersError            nobody listens on the subject of a request
"""

from __future__ import annotations

from collections.abc import Mapping

from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError

# err_code of the JetStream API (server/errors.json of nats-server); pinned against a real server by the
# tests.
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
JETSTREAM_NOT_ENABLED_FOR_ACCOUNT = 10039
MESSAGE_DELETE_FAILED = 10057
"""The message is gone already, or the store failed."""
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059
WRONG_LAST_SEQUENCE = 10071
JETSTREAM_NOT_ENABLED = 10076
STORE_FAILED = 10077
"""A message was not stored: `maximum bytes exceeded`, `maximum messages exceeded` or a failing disk."""
DUPLICATE_MESSAGE_ID = 10201
"""A message of an atomic batch was stored before, within the stream's duplicate window."""


class PermissionDeniedError(ServerError):
    """The server forbids this user a subject.

    Args:
        action: `publish` or `subscription`, as the server calls it.
        subject: The subject; in lower case where only the server's words are known.
    """

    def __init__(self, action: str, subject: str) -> None:
        self.action = action
        self.subject = subject
        super().__init__(f"no permission for {action} to {subject}: grant it to this user on the server")


class InboxDeniedError(PermissionDeniedError):
    """The server forbids this user to hear the answers to its requests: what was asked is for another role.

    Args:
        prefix: Where the answers would come, without the part that is of this connection alone.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__("subscription", f"{prefix}.>")
        where = f"no permission for subscription to {self.subject}, where the answers would come"
        self.args = (f"{where}: connect as a user whose role this is, see nats/README.md",)


class PayloadTooLargeError(ServerError):
    """A message is larger than the server takes.

    Args:
        size: Bytes of headers and payload; the server counts both.
        limit: The server's `max_payload`, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(f"a message of {size} bytes with its headers is over the server's max_payload, {limit}")


class ApiError(ServerError):
    """JetStream understood the request and said no.

    Args:
        code: Like an HTTP status, e.g. 404.
        err_code: The exact cause, e.g. `STREAM_NOT_FOUND`; 0 when the server gave none.
        description: The server's words.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(f"JetStream says: {description} (code {code}, err_code {err_code})")

    @classmethod
    def from_answer(cls, error: Mapping[str, object]) -> ApiError:
        """From the `error` object of an API answer or a PubAck."""
        code, err_code = error.get("code", 0), error.get("err_code", 0)
        return cls(
            code if isinstance(code, int) else 0,
            err_code if isinstance(err_code, int) else 0,
            str(error.get("description", "no description")),
        )


class ServerUnreachableError(ServerUnavailableError):
    """No listed server answered."""


class AccessRefusedError(ServerUnavailableError):
    """A server answered and would not have us: wrong credentials, or TLS that does not fit."""


class JetStreamUnavailableError(ServerUnavailableError):
    """A server took us in, but has no JetStream for this account, or has none at the moment."""


class NotConnectedError(ServerUnavailableError):
    """The connection is down; it comes back by itself. What was under way may have been carried out."""


class RequestTimeoutError(ServerUnavailableError):
    """No reply in time. The request may have been carried out.

    Args:
        subject: The subject of the request.
        timeout: How long it was waited for, in seconds.
    """

    def __init__(self, subject: str, timeout: float) -> None:
        self.subject = subject
        super().__init__(f"no reply from {subject} within {timeout:g} s")


class NoRespondersError(ServerUnavailableError):
    """Nobody listens on the subject of a request: no such stream, or JetStream has no leader at the moment.

    Args:
        subject: The subject of the request.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"nobody answers on {subject}: no such stream or consumer, or no JetStream")
