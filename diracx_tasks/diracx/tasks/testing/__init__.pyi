"""What type checkers see of the names that `__init__.py` serves on demand. A test compares both."""

from diracx.tasks.plumbing.embedded.server import EmbeddedServer as EmbeddedServer
from diracx.tasks.plumbing.embedded.server import EmbeddedServerError as EmbeddedServerError
from diracx.tasks.plumbing.execution.job import Cancelled as Cancelled
from diracx.tasks.plumbing.execution.job import Dead as Dead
from diracx.tasks.plumbing.execution.job import Discarded as Discarded
from diracx.tasks.plumbing.execution.job import Held as Held
from diracx.tasks.plumbing.execution.job import Interrupted as Interrupted
from diracx.tasks.plumbing.execution.job import LockBusy as LockBusy
from diracx.tasks.plumbing.execution.job import Retry as Retry
from diracx.tasks.plumbing.execution.job import Succeeded as Succeeded
from diracx.tasks.plumbing.execution.job import WrongQueue as WrongQueue
from diracx.tasks.testing.databases import sqlite_database as sqlite_database
from diracx.tasks.testing.execution import run_task as run_task
from diracx.tasks.testing.lock_store import InMemoryLockStore as InMemoryLockStore
from diracx.tasks.testing.mesh import LeakError as LeakError
from diracx.tasks.testing.mesh import Mesh as Mesh
from diracx.tasks.testing.submissions import Submitted as Submitted
from diracx.tasks.testing.waiting import wait_until as wait_until
from diracx.tasks.testing.working import Delivered as Delivered

__all__: list[str]
