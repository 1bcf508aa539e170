"""The reply subject of a delivered message, in every form that servers give it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.delivery import Delivery


def position(reply: str) -> Sequence[int]:
    message = Received(b"diracx.tasks.normal.small", reply.encode(), b"", b"")
    delivery = Delivery(None, message, 0.0)  # type: ignore[arg-type]
    return delivery.delivered, delivery.sequence, delivery.stored_ns


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.DIRACX_TASKS.normal-small.3.41.7.1796104800000000001.9",
        "$JS.ACK.hub.ACDEFG.DIRACX_TASKS.normal-small.3.41.7.1796104800000000001.9",
        "$JS.ACK._.ACDEFG.DIRACX_TASKS.normal-small.3.41.7.1796104800000000001.9.x7Q",
        "$JS.ACK.hub.ACDEFG.DIRACX_TASKS.normal-small.3.41.7.1796104800000000001.9.x7Q",
    ],
    ids=["classic", "domain, no token", "account", "domain"],
)
def test_the_position_is_read_from_every_form_of_the_reply_subject(reply: str) -> None:
    assert position(reply) == (3, 41, 1796104800000000001)
