"""Finds nats-py, or says what is wrong; the package imports it before anything that says `import nats`.

The repository has a folder `nats/` of assets at its top. When nats-py is not installed and that folder's
parent is on the path (the working directory of `python -m ...`), `import nats` finds the folder as an empty
namespace package, and the failure would come much later as a missing attribute.
"""

from __future__ import annotations

try:
    import nats
except ModuleNotFoundError as error:
    if error.name != "nats":
        raise
    raise ImportError("nats-py is not installed: pip install nats-py") from None

if getattr(nats, "__file__", None) is None:
    folder = next(iter(nats.__path__))
    raise ImportError(f"nats-py is not installed: pip install nats-py (`import nats` found the folder {folder})")
