"""DiracX tasks on NATS JetStream."""

import os
import sys

# Other distributions may bring packages below this one, such as `diracx.tasks.jobs`. They stand in another folder where
# this one is installed as editable. A folder with an `__init__.py` is another copy of this package, or DiracX's own.
_parents = list(sys.modules["diracx"].__path__)
if all(map(os.path.isdir, _parents)):
    _found = [folder for parent in _parents if os.path.isdir(folder := os.path.join(parent, "tasks"))]
else:
    # An archive, or the import hook of an editable installation, which only the import system can look into. Folders
    # need no pkgutil: its import takes as long as that of half of the command line.
    from pkgutil import extend_path

    _found = extend_path(__path__, __name__)
__path__ += [
    folder for folder in _found if folder not in __path__ and not os.path.exists(os.path.join(folder, "__init__.py"))
]
