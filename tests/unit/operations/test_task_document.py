"""The fields of `task --json` are those that the changelog promises."""

from __future__ import annotations

import msgspec

from diracx.tasks.plumbing.operations.locks import LockHolder
from diracx.tasks.plumbing.operations.task_document import (
    BusyLock,
    CancellationNote,
    DeadTask,
    GroupState,
    KeptResult,
    PastDelivery,
    ResultError,
    Running,
    TaskDocument,
)
from diracx.tasks.plumbing.wire.failure import Failure
from support.pages import DOCS


def written(struct: type[msgspec.Struct], **inner: str) -> str:
    """The names of the fields as the changelog writes them, those with structs of their own as `inner` has them."""
    names = (field.name for field in msgspec.structs.fields(struct))
    return "{" + ", ".join(f"{name}: {inner[name]}" if name in inner else name for name in names) + "}"


def test_the_changelog_has_all_fields_of_the_document_in_their_order() -> None:
    document = written(
        TaskDocument,
        errors=f"[{written(Failure)}]",
        running=f"[{written(Running)}]",
        locks=f"[{written(BusyLock, holders=f'[{written(LockHolder)}]')}]",
        cancelled=written(CancellationNote),
        dead_letter=written(DeadTask),
        result=written(KeptResult, error=written(ResultError)),
        groups=f"[{written(GroupState)}]",
        past=f"[{written(PastDelivery)}]",
    )
    assert f"`task` `{document}`" in (DOCS / "CHANGELOG.md").read_text("utf-8")
