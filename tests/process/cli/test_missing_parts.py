"""A stream or a bucket is missing in a mesh that is there: the command names it, and the command that creates it."""

from __future__ import annotations

from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.pull_client import NORMAL, pulling


async def test_what_is_missing_is_named_with_the_command_that_creates_it(
    with_server: CommandLine, on_the_server: OnTheServer
) -> None:
    names = on_the_server.names
    needed = {
        names.results_bucket: [["result", "1"]],
        names.locks_bucket: [["find", "--state", "parked"], ["locks", "list"]],
        names.config_bucket: [["config", "show"], ["config", "history"], ["schedule", "list"]],
        names.dead_letters_stream: [
            ["dlq", "list"],
            ["dlq", "list", "--group-by", "task"],
            ["find", "--state", "dead"],
        ],
        names.later_stream: [["find", "--state", "delayed"], ["cancel", "0192"]],
    }
    await on_the_server.set_up()
    # Delivered and with no worker, the task is parked: `find` looks for the lock that it waits for.
    async with pulling(on_the_server.connection, names) as puller:
        await puller.put(NORMAL, "{}")
        await wait_until(lambda: puller.probed(1), description="it is delivered")
    for name in needed:
        stream = name if name.isupper() else f"KV_{name}"
        await on_the_server.connection.api(f"STREAM.DELETE.{stream}")
        for done in with_server.each(needed[name]):
            kind = "bucket" if stream.startswith("KV_") else "stream"
            text = f"{kind} {name} is missing on this server: create it with `diracx-task-run setup`"
            assert text in done.stderr, done
            assert "does not exist" not in done.stderr
        unknown = " ".join(with_server("task", "0192").stdout.split())
        might = f"{kind} {name} is missing on this server, and might have told of it: `diracx-task-run setup`"
        assert (might in unknown) is (name not in (names.locks_bucket, names.config_bucket)), unknown
        await on_the_server.set_up()
