"""`diracx-task-run setup`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import rich_click as click

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.options import Access, Number, log_option, server_options
from diracx.tasks.plumbing.jetstream.assets import Asset, assets, with_replicas
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.accounts import accounts_conf
from diracx.tasks.plumbing.wire.names import Namespace


@click.command("setup")
@click.option("--replicas", type=Number(1, 5), metavar="N", help="Copies of every stream, 1 to 5.")
@click.option(
    "--export",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write them as JSON for the nats command, and accounts for nats-server, instead; no server is needed.",
)
@log_option("warning")
@server_options
def command(*, replicas: int | None, folder: Path | None, access: Access) -> None:
    """Create or update the streams, consumers and buckets.

    Workers do the same at their start, where their user may. Equal is left alone, a safe difference is updated, an
    unsafe one is an error. How much a stream keeps belongs to the operator once it stands; so do its replicas, unless
    --replicas says otherwise.
    """
    namespace = namespace_of(access)
    if folder is not None:
        for path in export(namespace, replicas or 1, folder):
            print(f"wrote {path}")
        return
    done = asyncio.run(_ensure(access, wanted(namespace, replicas)))
    print("\n".join(done) or f"everything stands as needed in namespace {namespace.name}")


def wanted(namespace: Namespace, replicas: int | None) -> list[Asset]:
    """The assets; with `replicas` given, their number is compared and updated like the rest."""
    if replicas is None:
        return assets(namespace)
    return [with_replicas(asset, replicas) for asset in assets(namespace, replicas)]


def export(namespace: Namespace, replicas: int, folder: Path) -> list[Path]:
    """Write `streams/<NAME>.json`, `consumers/<NAME>.json` and `accounts.conf`; a bucket is a stream.

    Returns:
        The paths.
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


async def _ensure(access: Access, wanted: list[Asset]) -> list[str]:
    async with operator_connection(access, "setup") as connection:
        return await ensure(connection, wanted, tolerant=False)
