"""What came of a task: kept in a bucket for whoever asks for it."""

# The broker reads results. So the room of the broker is loaded first, whichever of the two somebody imports.
import diracx.tasks.plumbing.jetstream  # noqa: F401
