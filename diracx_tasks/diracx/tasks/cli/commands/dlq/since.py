"""`--since`: a time, or how long ago."""

from __future__ import annotations

from datetime import UTC, datetime

import rich_click as click

from diracx.tasks.cli.terminal.durations import duration_from
from diracx.tasks.plumbing.wire.times import from_rfc3339

since_option = click.option(
    "--since",
    metavar="TIME|DURATION",
    help="Those that died since: RFC 3339 with an offset or Z, or how long ago, as 90 (seconds), 90s, 15m, 2h, 7d, 1w.",
)


def since_from(text: str, now: datetime) -> datetime:
    """The time that `--since` means.

    Args:
        now: What a duration counts back from.

    Raises:
        click.BadParameter: Neither a time nor a duration.
    """
    try:
        if (ago := duration_from(text)) is not None:
            return now - ago
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a time, e.g. 2026-12-01T06:00:00Z, nor a duration, e.g. 90s, 15m, 2h, 7d",
            param_hint=["--since"],
        ) from None
    try:
        return from_rfc3339(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=["--since"]) from None
