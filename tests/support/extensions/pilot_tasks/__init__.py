"""A distribution of periodic tasks as DiracX plans them: with arguments, and off by default."""
