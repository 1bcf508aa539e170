"""What the tasks of gubbins ask for."""

from typing import Annotated

from diracx.tasks.plumbing.depends import DBDepends
from gubbins.db.sql import LollygagDB as _LollygagDB

LollygagDB = Annotated[_LollygagDB, DBDepends(_LollygagDB.transaction)]
