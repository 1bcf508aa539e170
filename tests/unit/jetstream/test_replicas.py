"""What is told of the replicas of streams, buckets and consumers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from diracx.tasks.plumbing.jetstream.assets import Asset, assets
from diracx.tasks.plumbing.jetstream.replicas import Replicas, catching_up, replicas_of
from diracx.tasks.plumbing.wire.names import Namespace

ASSETS = {each.name: each for each in assets(Namespace("diracx"))}
LOCKS = ASSETS["diracx_locks"]
CURRENT = [{"name": f"server-{place}", "current": True} for place in (2, 3)]


def replicas(
    *followers: Mapping[str, Any], asset: Asset = LOCKS, wanted: int = 3, leader: str | None = "s1"
) -> Replicas:
    return Replicas(asset, wanted, leader, followers)


def test_nothing_is_told_of_replicas_that_are_up_to_date() -> None:
    assert catching_up([replicas(*CURRENT), replicas(wanted=1)]) == []


@pytest.mark.parametrize(
    ("found", "told", "moving"),
    [
        (replicas(CURRENT[0], {"name": "b", "current": False, "lag": 1204}), "b is 1,204 writes behind", True),
        (replicas(CURRENT[0], {"name": "b", "current": False, "lag": 1}), "b is 1 write behind", True),
        (replicas(CURRENT[0], {"name": "b", "current": False}), "b is catching up", True),
        (replicas(CURRENT[0], {"name": "b", "current": False, "offline": True, "lag": 7}), "b is offline", False),
        (replicas(CURRENT[0]), "1 of 3 replicas still to be made", True),
        (replicas(*CURRENT, wanted=2), "1 replica still to be removed", True),
        (replicas(*CURRENT, wanted=1), "2 replicas still to be removed", True),
        (replicas(wanted=1, leader=None), "has no leader", False),
    ],
)
def test_what_is_not_as_it_should_be_is_told_with_the_name_of_the_server(
    found: Replicas, told: str, moving: bool
) -> None:
    assert catching_up([found]) == [f"bucket diracx_locks: {told}"]
    assert found.is_moving is moving


def test_consumers_of_which_the_same_is_to_be_said_share_a_line() -> None:
    queues = [replicas(asset=ASSETS[name]) for name in ("realtime-small", "normal-small")]
    behind = replicas(CURRENT[0], {"name": "b", "current": False}, asset=ASSETS["normal-large"])
    assert catching_up([*queues, behind]) == [
        "consumers realtime-small, normal-small: 2 of 3 replicas still to be made",
        "consumer normal-large: b is catching up",
    ]


def test_nobody_is_told_to_remove_replicas_of_a_consumer_whose_stream_has_no_leader() -> None:
    followed = {"config": {}, "cluster": {"leader": "server-2", "replicas": CURRENT}}
    found = replicas_of([(ASSETS["DIRACX_TASKS"], {"cluster": {}}), (ASSETS["normal-small"], followed)])
    assert catching_up(found) == ["stream DIRACX_TASKS: has no leader"]
    assert not any(each.is_moving for each in found)
