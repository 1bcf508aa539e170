"""An extension of tasks that misbehave."""
