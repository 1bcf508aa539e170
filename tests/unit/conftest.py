"""`support/acme.py` as an installed distribution; an executor, with locks in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from diracx.core import extensions

from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from support.distributions import install_metadata
from support.jobs import WORKER
from support.lock_store import RecordingStore

ENTRY_POINTS = {
    "diracx": {"extension": "support"},
    "diracx.dbs.sql": {"LollygagDB": "support.acme:LollygagDB", "JobDB": "support.acme:PreferredJobDB"},
    "diracx.dbs.os": {
        "LogsDB": "support.acme:LogsDB",
        "JobParametersDB": "support.acme:PreferredJobParametersDB",
    },
}


@pytest.fixture
def acme_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`acme` as an installed distribution, and an environment without DiracX."""
    install_metadata(tmp_path / "site", "acme", ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in ("DIRACX_DB_URL_LOLLYGAGDB", "DIRACX_DB_URL_JOBDB", "DIRACX_OS_DB_LOGSDB", "DIRACX_CONFIG_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)
    cached: list[Any] = [extensions.select_from_extension, extensions.extensions_by_priority]
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def store() -> RecordingStore:
    """Where locks are kept."""
    return RecordingStore()


@pytest.fixture
async def keeper(store: RecordingStore) -> AsyncIterator[LockKeeper]:
    """Keeps locks in the store, which is empty again at the end."""
    async with LockKeeper(store) as keeper:
        yield keeper
    assert not store.entries, "every lock was released"


@pytest.fixture
def executor(keeper: LockKeeper) -> Executor:
    """Executes under locks of the keeper."""
    return Executor(Injector(), keeper, WORKER)
