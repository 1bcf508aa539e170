"""Gubbins: the reference extension of DiracX, reduced to its tasks."""
