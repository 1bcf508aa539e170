"""The commands of `locks`."""
