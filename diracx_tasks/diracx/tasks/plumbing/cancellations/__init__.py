"""Tasks that operators have cancelled, and how workers hear of it."""
