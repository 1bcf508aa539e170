"""Groups: many tasks, and one more that runs after the last of them."""

# The broker spawns groups. So the room of the broker is loaded first, whichever of the two somebody imports.
import diracx.tasks.plumbing.jetstream  # noqa: F401
