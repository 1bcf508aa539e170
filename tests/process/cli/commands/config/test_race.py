"""`config set` and `config rollback` while somebody else writes, after they have read what they would replace."""

from __future__ import annotations

import pytest

from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket
from support.command_line import CommandLine

OTHER = "vos: [other]"
# Python imports a module of this name at its start.
WRITES_BETWEEN = f"""
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket

revisions = ConfigurationBucket.revisions

async def and_writes(bucket):
    found = await revisions(bucket)
    if found[-1].text != {OTHER!r}:
        await bucket.write({OTHER!r})
    return found

ConfigurationBucket.revisions = and_writes
"""


@pytest.fixture
def raced(with_server: CommandLine) -> CommandLine:
    """The command line, with another writer behind each command."""
    (with_server.folder / "site" / "sitecustomize.py").write_text(WRITES_BETWEEN)
    return with_server


async def test_a_rollback_does_not_undo_what_it_has_not_seen(raced: CommandLine, bucket: ConfigurationBucket) -> None:
    for vo in ("lhcb", "atlas"):
        await bucket.write(f"vos: [{vo}]")
    done = raced("config", "rollback")
    assert (done.returncode, done.stdout) == (69, "")
    assert "somebody wrote another configuration at the same moment, and nothing was rolled back" in done.stderr
    assert await bucket.read() == (OTHER, 3)


async def test_the_later_of_two_files_counts_and_is_compared_with_what_it_replaced(
    raced: CommandLine, bucket: ConfigurationBucket, namespace: str
) -> None:
    await bucket.write("vos: [lhcb]")
    done = raced("config", "set", "-", typed="vos: [atlas]")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split() == ["the", "mesh", "-", "vos", "other", "atlas"]
    assert done.stdout.splitlines()[2] == f"revision 3 is in force in namespace {namespace}"
