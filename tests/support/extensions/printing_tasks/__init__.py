"""An extension whose task prints."""
