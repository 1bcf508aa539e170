"""Writers that meet on one key of a cluster, where a write is neither stored nor refused for a moment."""

from __future__ import annotations

import asyncio

from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from support.cluster import ClusterMesh

ROUNDS = 20
WRITERS = 10


async def test_one_of_the_writers_that_meet_on_a_key_wins_and_the_others_are_told_that_they_lost(
    cluster_mesh: ClusterMesh,
) -> None:
    revision = await cluster_mesh.attempts.replace("7", b"0", None, 0)
    for _ in range(ROUNDS):
        writes = (cluster_mesh.attempts.replace("7", b"1", None, revision) for _ in range(WRITERS))
        answers = await asyncio.gather(*writes, return_exceptions=True)
        (revision,) = (each for each in answers if isinstance(each, int))
        assert sum(isinstance(each, RevisionConflictError) for each in answers) == WRITERS - 1
