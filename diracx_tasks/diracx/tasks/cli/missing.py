"""A mesh that does not exist, told as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.errors import STREAM_NOT_FOUND, ApiError
from diracx.tasks.plumbing.wire.names import Namespace


@contextmanager
def mesh_expected(namespace: Namespace) -> Iterator[None]:
    """Say of a missing stream or bucket what it means.

    Raises:
        ServerError: In place of the server's "stream not found".
    """
    try:
        yield
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        raise ServerError(
            f"namespace {namespace.name} does not exist on this server: start a worker or a scheduler in it, "
            "or create it with `diracx-task-run setup`"
        ) from None
