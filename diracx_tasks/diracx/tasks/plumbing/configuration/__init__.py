"""What operators set for the whole mesh, and how processes follow it."""
