"""The databases of gubbins."""
