"""Creates the streams, consumers and buckets of a mesh on the server, and updates them to their definition.

* A missing asset is created. An equal one is left alone.
* A safe difference is updated. An unsafe one is an error that names the field.
* A bucket with a history keeps as many revisions of a key as defined, or more if an operator wants more.
* A stream whose list of subjects became shorter keeps the messages on the others; `ensure` names their subjects.
* Without an optional asset the mesh works: unless an operator asks for it, its failure is no more than a debug line.
* Only the fields of the definition are compared and written. An update starts from the configuration on the server, so
  the other fields keep the values that an operator set.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ServerError, TopologyDriftError, shown
from diracx.tasks.plumbing.jetstream.assets import START, Asset, merged
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    CONSUMER_NOT_FOUND,
    JETSTREAM_NOT_ENABLED,
    JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    ApiError,
    NoLeaderError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from diracx.tasks.plumbing.jetstream.stream_messages import subjects_of

logger = logging.getLogger("diracx.tasks.jetstream")

# A change of one of these fields would affect messages that already wait, or the server refuses it.
_UNSAFE = {
    "stream": frozenset({"retention", "storage", "allow_msg_ttl", "allow_msg_schedules", "sources"}),
    "bucket": frozenset({"retention", "storage", "allow_msg_ttl", "max_msgs_per_subject"}),
    "consumer": frozenset({"ack_policy", "deliver_policy", "filter_subject"}),
}

_MAX_SUBJECTS_SHOWN: Final = 5
_UPDATE_SECONDS: Final = 2.0
"""How long the answer to an update may take before the stream is asked whether it is updated."""

_OPTIONAL_SECONDS: Final = 2.0
"""A start waits no longer for an asset that it can do without: its stream may have no leader."""

_SOURCES: Final = "sources"
_HISTORY = "max_msgs_per_subject"
"""The number of revisions that a bucket keeps of each key. To keep more removes nothing."""


async def ensure(
    connection: Connection, wanted: Collection[Asset], *, tolerant: bool = True, update: bool = True
) -> list[str]:
    """Create and update assets, as far as this user has permission.

    Args:
        update: Whether existing assets are compared and updated; False: only missing ones are created.
        tolerant: Whether a missing permission, or a cluster without a leader, ends the work without an error; False:
            it is an error.

    Returns:
        One line for each asset that was created or updated; empty when there was nothing to do.

    Raises:
        TopologyDriftError: An asset differs in a way that cannot be changed safely.
        ServerUnavailableError: No answer.
        ApiError: The server refused an asset, e.g. for lack of storage.
        PermissionDeniedError: This user lacks a permission, and `tolerant` is False.
    """
    assets, optional = [each for each in wanted if not each.optional], [each for each in wanted if each.optional]
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
            _log_refusal(refusal)
            return done
        except (NoLeaderError, RequestTimeoutError) as error:
            if not (tolerant and connection.in_cluster):
                raise
            logger.warning("not looking at streams, consumers and buckets: %s", error)
            return done
    return done + await _ensure_optional(connection, optional, tolerant, update)


async def _ensure_optional(connection: Connection, assets: Iterable[Asset], tolerant: bool, update: bool) -> list[str]:
    done = []
    for asset in assets:
        try:
            async with asyncio.timeout(_OPTIONAL_SECONDS if tolerant else None):
                done.append(await _ensure(connection, asset, update))
        except (ServerError, TimeoutError) as error:
            if not tolerant:
                raise
            logger.debug("going on without the %s: %r", asset, error)
    return list(filter(None, done))


def _log_refusal(refusal: PermissionDeniedError) -> None:
    if ".INFO." in refusal.subject:
        # A producer need not have this permission. Another role creates the assets, and a publish names a missing one.
        logger.debug("not looking at streams, consumers and buckets: %s", refusal)
    else:
        logger.warning(
            "a stream, consumer or bucket is missing or not as needed, and this user may not repair it (%s): "
            "let an operator run `diracx-task-run setup`",
            refusal.subject,
        )


async def missing(connection: Connection, wanted: Iterable[Asset]) -> str | None:
    """Say which assets the server does not have, or that it has no JetStream, and what to do; None: it has all.

    One that this user may not look at counts as there. A consumer is not named beside its stream.

    Raises:
        ServerUnavailableError: No answer.
    """
    assets = list(wanted)
    try:
        found = await asyncio.gather(*(_is_there(connection, asset) for asset in assets))
    except ApiError as error:
        disabled = error.err_code in (JETSTREAM_NOT_ENABLED, JETSTREAM_NOT_ENABLED_FOR_ACCOUNT)
        return "JetStream is not enabled for this account: enable it on the server" if disabled else str(error)
    gone = [asset for asset, there in zip(assets, found, strict=True) if not there]
    streams = {asset.stream for asset in gone if asset.kind != "consumer"}
    names = [str(asset) for asset in gone if asset.kind != "consumer" or asset.stream not in streams]
    if not names:
        return None
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing: run `diracx-task-run setup`"


async def _is_there(connection: Connection, asset: Asset) -> bool:
    try:
        return await _info(connection, asset) is not None
    except PermissionDeniedError:
        return True


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
    done = f"updated {asset}: {', '.join(sorted(changes))}"
    return done + (await _left_over(connection, asset) if "subjects" in changes else "")


async def _left_over(connection: Connection, asset: Asset) -> str:
    """Describe the messages on subjects that the stream took before, and takes no more; they stay where they are."""
    patterns = [_pattern(subject) for subject in asset.config["subjects"]]
    stored = await subjects_of(connection, asset.stream, ">")
    left = sorted(subject for subject in stored if not any(pattern.fullmatch(subject) for pattern in patterns))
    if not left:
        return ""
    return (
        f"; nothing reads what it still holds on {', '.join(map(shown, left[:_MAX_SUBJECTS_SHOWN]))}"
        f"{f' and {more} more' if (more := len(left) - _MAX_SUBJECTS_SHOWN) > 0 else ''}: look with "
        f"`nats stream view {asset.stream} --subject=...`, and remove it with `nats stream purge {asset.stream} "
        "--subject=...`"
    )


def _pattern(subject: str) -> re.Pattern[str]:
    """What a subject with wildcards matches."""
    wildcards = {"*": r"[^.]+", ">": ".+"}
    return re.compile(r"\.".join(wildcards.get(each, re.escape(each)) for each in subject.split(".")))


def differences(asset: Asset, found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which `found`, the configuration on the server, differs from `asset`, with the wanted values.

    Raises:
        TopologyDriftError: One of them cannot be changed safely.
    """
    changes: dict[str, Any] = {}
    for field, needed in asset.config.items():
        has = found.get(field)
        if _satisfies(has, needed) or (field == _HISTORY and _keeps_more(has, needed)):
            continue
        if field in _UNSAFE[asset.kind] and not _is_safe(field, has, needed):
            raise TopologyDriftError(str(asset), field, has, needed)
        # The server keeps metadata of its own.
        changes[field] = merged(has or {}, needed) if field == "metadata" else needed
    return changes


def _is_safe(field: str, has: Any, needed: Any) -> bool:
    """Whether a field may change in this way that may not in others."""
    if field == _HISTORY:
        return _keeps_fewer(has, needed)
    # A source keeps its place when its beginning changes.
    return field == _SOURCES and _satisfies(has, [{**source, START: None} for source in needed])


def _keeps_more(has: int | None, needed: int) -> bool:
    """Whether a bucket with a history keeps more revisions than needed. Negative: all of them."""
    return needed > 1 and has is not None and not 0 <= has <= needed


def _keeps_fewer(has: int | None, needed: int) -> bool:
    return has is not None and 0 <= has < needed


def _satisfies(has: Any, needed: Any) -> bool:
    """Whether `has` contains `needed`; the server omits false values and adds fields of its own."""
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
    """Create it; False when another process created it meanwhile, with another configuration."""
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
        await _update_stream(connection, asset, config)


async def _update_stream(connection: Connection, asset: Asset, config: dict[str, Any]) -> None:
    """Update a stream. nats-server 2.15 often makes more replicas of `DIRACX_TASKS` without an answer."""
    for seconds in (_UPDATE_SECONDS, None):
        try:
            await connection.api(f"STREAM.UPDATE.{asset.stream}", config, timeout=seconds)
        except (RequestTimeoutError, NoLeaderError):
            found = await _info(connection, asset)
            if found is not None and not differences(asset, found):
                return
            if seconds is None:
                raise
        else:
            return


async def _write_consumer(connection: Connection, asset: Asset, config: dict[str, Any]) -> None:
    subject = f"CONSUMER.CREATE.{asset.stream}.{asset.name}.{config['filter_subject']}"
    await connection.api(subject, {"stream_name": asset.stream, "config": config})
