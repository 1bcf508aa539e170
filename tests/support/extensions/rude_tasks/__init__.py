"""An extension whose import and whose tasks change the process for themselves."""
