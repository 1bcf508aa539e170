"""How does the system talk to NATS JetStream? Only this package speaks its protocol; it executes no task."""

from diracx.tasks.plumbing.jetstream.deferred_import import deferred_import

# The check of nats-py stands before every other import of `nats`. The repository has a folder `nats/` of assets at its
# top. Without nats-py, and with that folder's parent on the path (the working directory of `python -m ...`),
# `import nats` finds the folder as an empty namespace package, and fails much later with a missing attribute.
try:
    with deferred_import("aiohttp"):
        import nats
except ModuleNotFoundError as error:
    if error.name != "nats":
        raise
    raise ImportError("nats-py is not installed: pip install nats-py") from None
if getattr(nats, "__file__", None) is None:
    raise ImportError(
        f"nats-py is not installed: pip install nats-py (`import nats` found the folder {next(iter(nats.__path__))})"
    )

from diracx.tasks.plumbing.jetstream.broker import JetStreamBroker

__all__ = ["JetStreamBroker"]
