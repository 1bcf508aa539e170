"""The tasks of gubbins."""
