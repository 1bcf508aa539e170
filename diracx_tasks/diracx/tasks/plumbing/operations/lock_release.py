"""The release of a lock by an operator, in sentences: who holds it, what goes on meanwhile, who has noticed."""

from __future__ import annotations

from typing import Final

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.operations.locks import LIMITERS, NOTICE_SECONDS, HeldLock, Noticed
from diracx.tasks.plumbing.wire.times import readable_time

UNTIL_NOTICED: Final = "its task runs on, beside the next owner, until it renews the lock (a third of its time to live)"
MAX_NAMED: Final = 5


def of_holders(lock: HeldLock) -> str:
    """Who holds a lock, in a sentence."""
    if not lock.holders:
        return "Nobody holds it: what is left is the mark of a task that waited for it, or cannot be read."
    named = [
        f"{shown(each.task)} {shown(each.id)} on {shown(each.worker)} since {readable_time(each.since)}"
        for each in lock.holders[:MAX_NAMED]
    ]
    if more := len(lock.holders) - len(named):
        named.append(f"{more} more")
    return f"Held by {', '.join(named)}."


def of_meanwhile(lock: HeldLock) -> list[str]:
    """What goes on after the release of a lock, in sentences."""
    if lock.kind == "leader":
        return ["It is the leadership of the schedulers: one of them takes it. No occurrence is lost or comes twice."]
    if lock.kind in LIMITERS:
        return [f"It is a limiter: its {LIMITERS[lock.kind]} are forgotten, so more tasks than its limit may run."]
    if not lock.holders:
        return []
    expires = "" if lock.expires_in is None else f", in {lock.expires_in:.0f} s"
    return [
        f"{UNTIL_NOTICED[0].upper()}{UNTIL_NOTICED[1:]}.",
        "Then it is cancelled and given back, and runs again once it gets the lock.",
        f"The lock of a holder that is gone needs no release: it expires by itself{expires}.",
    ]


def told(noticed: Noticed) -> str:
    """What has become of a holder, in a line; a warning if it still runs."""
    holder = noticed.holder
    named = f"{shown(holder.task)} {shown(holder.id)} on {shown(holder.worker)}"
    if not noticed.known:
        return f"{named}: it does not answer. If it lives, {UNTIL_NOTICED}"
    if not noticed.runs:
        return f"{named}: it does not run any more"
    if noticed.cancelled:
        return f"warning: {named}: it was cancelled, and has not ended yet; it runs beside the next owner"
    return f"warning: {named}: it has not noticed within {NOTICE_SECONDS:g} s; {UNTIL_NOTICED}"
