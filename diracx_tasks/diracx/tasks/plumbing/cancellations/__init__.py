"""Tasks that operators have cancelled: the notes that say so, and how workers hear of them."""
