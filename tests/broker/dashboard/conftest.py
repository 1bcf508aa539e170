"""Actions that are waited for, however slow the machine is."""

from __future__ import annotations

import pytest

from diracx.tasks.dashboard import actions
from support.dashboards import EVENT_SECONDS


@pytest.fixture(autouse=True)
def actions_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead to the result of an action, and to a page of its own only where a test says so."""
    monkeypatch.setattr(actions, "AT_ONCE_SECONDS", EVENT_SECONDS)
