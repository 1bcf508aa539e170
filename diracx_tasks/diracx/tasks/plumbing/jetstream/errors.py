"""The errors of requests to a NATS server, and the error codes of the JetStream API.

* ServerError
  x PermissionDeniedError          the server forbids this user a subject
    - InboxDeniedError             the server forbids this user to receive replies
  x UnsendableError
    - PayloadTooLargeError         the message is larger than the server accepts
    - SubjectTooLongError          its subject is longer than the server accepts
  x ApiError                       JetStream understood the request and refused it
  x ServerUnavailableError         the server did not receive the request, or its effect is unknown
    - ServerUnreachableError       no listed server answered
    - AccessRefusedError           a server refused the credentials or TLS
    - JetStreamUnavailableError    the server has no JetStream for this account, or none at the moment
    - NotConnectedError            the connection is down and is being re-established
      . ClosedError                the connection was closed for good
    - RequestTimeoutError          no reply in time
    - NoRespondersError            nobody subscribes to the subject of a request
    - NoLeaderError                the cluster, a stream or a consumer has no leader, and got none in time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError, UnsendableError, shown

# err_code of the JetStream API (server/errors.json of nats-server). The tests compare them with a real server.
NO_SUITABLE_PEERS = 10005
"""The cluster has fewer servers than a stream is to have replicas, or too few of them are there."""
CLUSTER_NOT_AVAILABLE = 10008
"""The cluster, a stream or a consumer has no leader at the moment; only a cluster says so."""
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
JETSTREAM_NOT_ENABLED_FOR_ACCOUNT = 10039
SEQUENCE_NOT_FOUND = 10043
"""A delete of a message that was deleted before, between two that exist."""
MESSAGE_TOO_LARGE = 10054
"""The message is over the `max_msg_size` of its stream, which an operator has set."""
MESSAGE_DELETE_FAILED = 10057
"""The message is gone already, or its store failed."""
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059
WRONG_LAST_SEQUENCE = 10071
NOT_CLUSTERED = 10074
"""A server that stands alone keeps one replica."""
JETSTREAM_NOT_ENABLED = 10076
STORE_FAILED = 10077
"""The stream did not store a message: `maximum bytes exceeded`, `maximum messages exceeded` or a failing disk."""
STREAM_OFFLINE = 10118
"""Every server that has a replica of the stream is away; only a cluster says so."""
CONSUMER_OFFLINE = 10119
ID_IN_PROCESS = 10158
"""A message with this `Nats-Msg-Id` is being stored by a cluster; its end is not known yet."""
WRITE_IN_PROCESS = 10164
"""Another message on this subject is being stored by a cluster, so its last sequence is not known yet. Its words are
those of `WRONG_LAST_SEQUENCE`."""
BATCH_INCOMPLETE = 10176
"""The leader of a stream does not have the first messages of a batch: it has changed meanwhile. Nothing was stored."""
INSUFFICIENT_RESOURCES = 10023
"""The server has used up the storage that it takes for JetStream: `max_file_store`, by default 75 % of its disk."""
DUPLICATE_MESSAGE_ID = 10201
"""A message of an atomic batch was stored before, within the stream's duplicate window."""
TOO_MANY_BATCHES = 10210
"""The stream has 50 atomic batches that were begun and not committed, also by publishers that died in the last 10 s."""


def _raised_by(description: str) -> str:
    """The option of `nats stream edit` that raises the limit which the server's words name."""
    return "--max-msgs=..." if "messages" in description else "--max-bytes=..."


def stream_full_text(stream: str, description: str = "") -> str:
    """The error text for a full stream and its remedy.

    Args:
        description: The server's words, if there are any.
    """
    detail = f" ({description})" if description else ""
    return (
        f"the stream {stream} is full{detail}: let workers drain it, or raise its limit with "
        f"`nats stream edit {stream} {_raised_by(description)}`"
    )


def bucket_full_text(bucket: str, description: str) -> str:
    """The error text for a full bucket of results and its remedy.

    Args:
        description: The server's words.
    """
    return (
        f"the bucket {bucket} is full ({description}): keep results for a shorter time, or raise its limit with "
        f"`nats stream edit KV_{bucket} {_raised_by(description)}`"
    )


class PermissionDeniedError(ServerError):
    """The server forbids this user a subject.

    Args:
        action: `publish` or `subscription`, as the server calls it.
        subject: The subject; in lower case where it is read from the server's error text.
        access: Whose credentials were used and where they come from; "" where that is not known.
        hint: What else may help, besides the permission.
    """

    def __init__(self, action: str, subject: str, access: str = "", hint: str = "") -> None:
        self.action = action
        self.subject = subject
        super().__init__(
            f"no permission for {action} to {subject}{access and f' as {access}'}: "
            f"grant it to this user on the server{hint and f'; or {hint}'}"
        )


class InboxDeniedError(PermissionDeniedError):
    """The server forbids this user to receive replies: the command is for another role.

    Args:
        prefix: The prefix of the reply subjects, without the part that this connection added.
        access: As for `PermissionDeniedError`.
    """

    def __init__(self, prefix: str, access: str = "") -> None:
        super().__init__("subscription", f"{prefix}.>")
        who = access and f" as {access}"
        where = f"no permission for subscription to {self.subject}, where the answers would come{who}"
        self.args = (f"{where}: connect as a user whose role this is, see nats/README.md",)


class PayloadTooLargeError(UnsendableError):
    """A message is larger than the server accepts.

    Args:
        size: The size of headers and payload together, in bytes.
        limit: The server's `max_payload`, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(f"a message of {size} bytes with its headers is over the server's max_payload, {limit}")


class SubjectTooLongError(UnsendableError):
    """The subjects of a message do not fit into the line that the server reads.

    Args:
        subject: The subject.
        size: The length of the line, in bytes.
        limit: The longest line that the server accepts, as far as is known.
    """

    def __init__(self, subject: str, size: int, limit: int) -> None:
        self.subject = subject
        self.size = size
        self.limit = limit
        super().__init__(
            f"the subject {shown(subject)} and the one for its reply make a line of {size} bytes, over the server's "
            f"max_control_line, {limit}: shorten the name in it, or the inbox prefix"
        )


def _hint(err_code: int) -> str:
    if err_code != INSUFFICIENT_RESOURCES:
        return ""
    return (
        ": the server has used up its storage for JetStream: remove what is not needed, or make room on its disk, "
        "raise max_file_store, and start it again"
    )


class ApiError(ServerError):
    """JetStream understood the request and refused it.

    Args:
        code: A status as in HTTP, e.g. 404.
        err_code: The exact cause, e.g. `STREAM_NOT_FOUND`; 0 when the server names none.
        description: The server's words.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(f"JetStream says: {description} (code {code}, err_code {err_code}){_hint(err_code)}")

    @classmethod
    def from_answer(cls, error: Mapping[str, object]) -> ApiError:
        """Read the `error` object of an API answer or a PubAck."""
        code, err_code = error.get("code", 0), error.get("err_code", 0)
        return cls(
            code if isinstance(code, int) else 0,
            err_code if isinstance(err_code, int) else 0,
            str(error.get("description", "no description")),
        )


class ServerUnreachableError(ServerUnavailableError):
    """No listed server answered."""


class AccessRefusedError(ServerUnavailableError):
    """A server refused the credentials or TLS."""


class JetStreamUnavailableError(ServerUnavailableError):
    """The server has no JetStream for this account, or none at the moment."""


class NotConnectedError(ServerUnavailableError):
    """The connection is down and is being re-established. The server may have carried out a request in flight."""


class ClosedError(NotConnectedError):
    """The connection was closed for good. The server may have carried out a request in flight."""


WHERE_TO_LOOK: Final = "look at `nats stream report` and `nats server report jetstream`"
"""Who leads what, in words of the nats command."""


class RequestTimeoutError(ServerUnavailableError):
    """No reply in time. The server may have carried out the request.

    Args:
        subject: The subject of the request.
        timeout: The time waited, in seconds.
        in_cluster: Whether the server is part of a cluster, where a leader may be missing.
    """

    def __init__(self, subject: str, timeout: float, *, in_cluster: bool = False) -> None:
        self.subject = subject
        # A server that cannot write does not say so: it does not answer.
        hint = "the server hangs, or cannot write, e.g. since its disk is full; look at its log"
        if in_cluster:
            hint = f"there is no leader, or a server hangs; {WHERE_TO_LOOK}"
        super().__init__(f"no reply from {subject} within {timeout:g} s: {hint}")


class NoRespondersError(ServerUnavailableError):
    """Nobody subscribes to the subject of a request: the stream is missing, or JetStream has no leader at the moment.

    Args:
        subject: The subject of the request.
        waited: For how long a cluster was asked again, in seconds; None: it is no cluster, or was asked once.
    """

    def __init__(self, subject: str, waited: float | None = None) -> None:
        self.subject = subject
        if waited is None:
            super().__init__(f"nobody answers on {subject}: no such stream or consumer, or no JetStream")
        else:
            why = f"its stream has no leader, or is missing; {WHERE_TO_LOOK}"
            super().__init__(f"nobody answered on {subject} for {waited:g} s: {why}")


class NoLeaderError(ServerUnavailableError):
    """The cluster, a stream or a consumer had no leader, and got none in time.

    Args:
        subject: The subject of the request.
        waited: The time waited, in seconds.
    """

    def __init__(self, subject: str, waited: float) -> None:
        self.subject = subject
        super().__init__(f"no leader for {waited:g} s that answers on {subject}: {WHERE_TO_LOOK}")
