"""Types of the fields of stored and sent documents, which others may have written: they refuse what cannot be computed
with, so that one such document is left out where it is read, and fails nothing later."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

AwareTime = Annotated[datetime, Meta(tz=True)]
"""A time with its offset: one without cannot be compared with others."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A whole number that JSON carries, and that a float holds exactly."""
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
"""A duration that a `timedelta` holds."""
