"""Bringing the streams, consumers and buckets of a mesh to what the code defines.

For each asset: missing is created; equal is left alone; a safe difference is updated; an unsafe one is an error that
names the field. Only fields that the definition names are compared and written: what an operator set by hand beside
them stays, because an update starts from what the server has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from diracx.tasks.plumbing.exceptions import TopologyDriftError
from diracx.tasks.plumbing.jetstream.assets import Asset
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    CONSUMER_NOT_FOUND,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    PermissionDeniedError,
)

logger = logging.getLogger("diracx.tasks.jetstream")

# Changing one of these in place would change what already waits, or the server refuses it.
_UNSAFE = {
    "stream": frozenset({"retention", "storage", "allow_msg_ttl", "allow_msg_schedules", "sources"}),
    "bucket": frozenset({"retention", "storage", "allow_msg_ttl", "max_msgs_per_subject"}),
    "consumer": frozenset({"ack_policy", "deliver_policy", "filter_subject"}),
}


async def ensure(
    connection: Connection, wanted: Iterable[Asset], *, tolerant: bool = True, update: bool = True
) -> list[str]:
    """Create and update assets as far as this connection may.

    Args:
        update: Whether what stands is compared; False: only what is missing is created.
        tolerant: Whether a missing permission ends it silently; False: it is an error.

    Returns:
        What was done, a line each; empty when everything stood as needed.

    Raises:
        TopologyDriftError: An asset differs in a way that cannot be changed safely.
        ServerUnavailableError: No answer.
        ApiError: The server refused an asset, e.g. for want of storage.
        PermissionDeniedError: Not `tolerant`, and this user may not.
    """
    assets = list(wanted)
    done: list[str] = []
    # Consumers need their stream, and the work queue needs the stream that it sources.
    for group in (
        [asset for asset in assets if asset.kind == "stream" and "sources" not in asset.config],
        [asset for asset in assets if "sources" in asset.config or asset.kind == "bucket"],
        [asset for asset in assets if asset.kind == "consumer"],
    ):
        try:
            done += filter(None, await asyncio.gather(*(_ensure(connection, asset, update) for asset in group)))
        except PermissionDeniedError as refusal:
            if not tolerant:
                raise
            _tell(refusal)
            return done
    return done


def _tell(refusal: PermissionDeniedError) -> None:
    if ".INFO." in refusal.subject:
        # A producer may lack the right to look; whoever may creates them, and publishing tells what is missing.
        logger.debug("not looking at streams, consumers and buckets: %s", refusal)
    else:
        logger.warning(
            "a stream, consumer or bucket is missing or not as needed, and this user may not mend it (%s): "
            "let an operator run `diracx-task-run setup`",
            refusal.subject,
        )


async def _ensure(connection: Connection, asset: Asset, update: bool) -> str | None:
    found = await _info(connection, asset)
    if found is None:
        if await _create(connection, asset):
            return f"created {asset}"
        found = await _info(connection, asset) or {}
    changes = differences(asset, found) if update else {}
    if not changes:
        return None
    await _update(connection, asset, {**found, **changes})
    return f"updated {asset}: {', '.join(sorted(changes))}"


def differences(asset: Asset, found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `asset` that `found` (the server's configuration) lacks or has otherwise, with the wanted value.

    Raises:
        TopologyDriftError: One of them cannot be changed safely.
    """
    changes: dict[str, Any] = {}
    for field, needed in asset.config.items():
        has = found.get(field)
        if _satisfies(has, needed):
            continue
        if field in _UNSAFE[asset.kind]:
            raise TopologyDriftError(str(asset), field, has, needed)
        # The server keeps notes of its own in the metadata.
        changes[field] = {**(has or {}), **needed} if field == "metadata" else needed
    return changes


def _satisfies(has: Any, needed: Any) -> bool:
    """Whether `has` contains what is `needed`; the server leaves out what is false, and adds what it knows."""
    if isinstance(needed, Mapping):
        return isinstance(has, Mapping) and all(_satisfies(has.get(key), value) for key, value in needed.items())
    if isinstance(needed, list) and needed and isinstance(needed[0], Mapping):
        return isinstance(has, list) and len(has) == len(needed) and all(map(_satisfies, has, needed))
    if not needed:
        return not has
    return bool(has == needed)


async def _info(connection: Connection, asset: Asset) -> dict[str, Any] | None:
    subject = f"STREAM.INFO.{asset.stream}"
    if asset.kind == "consumer":
        subject = f"CONSUMER.INFO.{asset.stream}.{asset.name}"
    try:
        config: dict[str, Any] = (await connection.api(subject))["config"]
    except ApiError as error:
        if error.err_code in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND):
            return None
        raise
    return config


async def _create(connection: Connection, asset: Asset) -> bool:
    """Create it; False when somebody else did so meanwhile, with another configuration."""
    if asset.kind == "consumer":
        await _write_consumer(connection, asset, asset.definition)
        return True
    try:
        await connection.api(f"STREAM.CREATE.{asset.stream}", asset.definition)
    except ApiError as error:
        if error.err_code == STREAM_NAME_IN_USE:
            return False
        raise
    return True


async def _update(connection: Connection, asset: Asset, config: dict[str, Any]) -> None:
    if asset.kind == "consumer":
        await _write_consumer(connection, asset, config)
    else:
        await connection.api(f"STREAM.UPDATE.{asset.stream}", config)


async def _write_consumer(connection: Connection, asset: Asset, config: dict[str, Any]) -> None:
    subject = f"CONSUMER.CREATE.{asset.stream}.{asset.name}.{config['filter_subject']}"
    await connection.api(subject, {"stream_name": asset.stream, "config": config})
