"""DiracX tasks on NATS JetStream."""

import os
from pkgutil import extend_path

# Other distributions may bring packages below this one, such as `diracx.tasks.jobs`. They stand in another folder where
# this one is installed as editable. A folder with an `__init__.py` is another copy of this package, or DiracX's own.
__path__ = [
    folder
    for folder in extend_path(__path__, __name__)
    if folder in __path__ or not os.path.exists(os.path.join(folder, "__init__.py"))
]
