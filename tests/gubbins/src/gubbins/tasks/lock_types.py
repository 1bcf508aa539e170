"""What the tasks of gubbins lock."""

from diracx.tasks.plumbing.lock_registry import register_locked_object_type

LOLLYGAG = register_locked_object_type("lollygag")
"""An owner, by name."""
