"""DiracX tasks on NATS JetStream."""

import os
import sys

# Other distributions may bring packages below this one, such as `diracx.tasks.jobs`. They stand in another folder where
# this one is installed as editable. A folder with an `__init__.py` is another copy of this package, or DiracX's own.
# `pkgutil.extend_path` finds the same folders, but its import takes as long as that of half of this command line.
__path__ += [
    folder
    for folder in (os.path.join(parent, "tasks") for parent in sys.modules["diracx"].__path__)
    if folder not in __path__ and os.path.isdir(folder) and not os.path.exists(os.path.join(folder, "__init__.py"))
]
