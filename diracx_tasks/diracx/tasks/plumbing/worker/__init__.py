"""The worker process: pulls, executes, settles."""

from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.worker import Worker

__all__ = ["Worker", "WorkerSettings"]
