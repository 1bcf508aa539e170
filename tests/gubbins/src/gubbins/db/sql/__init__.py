"""The SQL databases of gubbins."""

from gubbins.db.sql.lollygag import LollygagDB

__all__ = ["LollygagDB"]
