"""Which tasks are installed, and which class has which name on the wire?"""

from diracx.tasks.plumbing.registry.registry import RegisteredTask, TaskRegistry

__all__ = ["RegisteredTask", "TaskRegistry"]
