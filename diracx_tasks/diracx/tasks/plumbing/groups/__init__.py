"""Groups: many tasks, and one more that runs after the last of them."""
