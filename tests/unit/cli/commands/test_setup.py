"""When `setup --replicas` refuses to change the number of replicas."""

from __future__ import annotations

import pytest

from diracx.tasks.cli.commands.setup import refuse_haste
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.replicas import Replicas
from diracx.tasks.plumbing.wire.names import Namespace

LATER, TASKS = assets(Namespace("diracx"))[:2]
CURRENT = tuple({"name": f"server-{place}", "current": True} for place in (2, 3))
DONE = Replicas(LATER, 3, "server-1", CURRENT)
BEGUN = Replicas(TASKS, 3, "server-1", ())
ONE_DOWN = Replicas(TASKS, 3, "server-1", (CURRENT[0], {"name": "server-3", "current": False, "offline": True}))


def test_it_is_refused_while_the_last_change_is_not_done() -> None:
    with pytest.raises(ServerError) as caught:
        refuse_haste([DONE, BEGUN], 1)
    assert str(caught.value) == (
        "the last change of replicas is not done: stream DIRACX_TASKS: 2 of 3 replicas still to be made. "
        "Run `diracx-task-run setup` until nothing is catching up, then `setup --replicas 1` again"
    )


def test_it_may_be_said_again_and_be_changed_when_all_is_there_or_a_server_is_down() -> None:
    refuse_haste([DONE, BEGUN], 3)
    refuse_haste([DONE, ONE_DOWN], 1)
    refuse_haste([], 1)
