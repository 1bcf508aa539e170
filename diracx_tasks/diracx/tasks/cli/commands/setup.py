"""`diracx-task-run setup`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.output import say
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import Asset, assets, with_replicas
from diracx.tasks.plumbing.jetstream.errors import NO_SUITABLE_PEERS, NOT_CLUSTERED, ApiError
from diracx.tasks.plumbing.jetstream.replicas import Replicas, catching_up, read_replicas
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.accounts import accounts_conf
from diracx.tasks.plumbing.wire.names import Namespace


def command(*, replicas: int | None, folder: Path | None, access: Access) -> None:
    namespace = namespace_of(access)
    if folder is not None:
        for path in export(namespace, replicas or 1, folder):
            say(f"wrote {path}")
        return
    done, waits = asyncio.run(_ensure(access, wanted(namespace, replicas), replicas))
    lines = done if done or waits else [f"namespace {namespace.name} is up to date"]
    if waits:
        lines += [f"catching up: {each}" for each in waits]
        lines.append("run `diracx-task-run setup` again to see whether all is there")
    say("\n".join(lines))


def wanted(namespace: Namespace, replicas: int | None) -> list[Asset]:
    """Return the assets. If `replicas` is given, a different number on the server is a difference like any other."""
    if replicas is None:
        return assets(namespace)
    return [with_replicas(asset, replicas) for asset in assets(namespace, replicas)]


def export(namespace: Namespace, replicas: int, folder: Path) -> list[Path]:
    """Write `streams/<NAME>.json`, `consumers/<NAME>.json` and `accounts.conf`. A bucket is written as its stream.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "accounts.conf"]
    written[0].write_text(accounts_conf(namespace), encoding="utf-8")
    for asset in assets(namespace, replicas):
        kind, name = ("consumers", asset.name) if asset.kind == "consumer" else ("streams", asset.stream)
        path = folder / kind / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asset.definition, indent=2) + "\n", encoding="utf-8")
        written.append(path)
    return written


async def _ensure(access: Access, wanted: list[Asset], replicas: int | None) -> tuple[list[str], list[str]]:
    """Create and update the assets.

    Returns:
        What was done, and which replicas are still behind.

    Raises:
        ServerError: There are too few servers, or the last change of replicas is not done; or as `ensure`.
    """
    async with operator_connection(access, "setup") as connection:
        if replicas is not None:
            refuse_haste(await read_replicas(connection, wanted), replicas)
        try:
            done = await ensure(connection, wanted, tolerant=False)
        except ApiError as error:
            if replicas is None or error.err_code not in (NOT_CLUSTERED, NO_SUITABLE_PEERS):
                raise
            raise ServerError(
                f"{replicas} replicas need a cluster of {replicas} nats-servers or more: {error}"
            ) from None
        return done, catching_up(await read_replicas(connection, wanted))


def refuse_haste(found: list[Replicas], replicas: int) -> None:
    """Refuse to change the number of replicas while the last change is under way: the server would not answer.

    Raises:
        ServerError: An asset is still moving to another number.
    """
    if moving := [each for each in found if each.is_moving and each.wanted != replicas]:
        raise ServerError(
            f"the last change of replicas is not done: {'; '.join(catching_up(moving))}. "
            f"Run `diracx-task-run setup` until nothing is catching up, then `setup --replicas {replicas}` again"
        )
