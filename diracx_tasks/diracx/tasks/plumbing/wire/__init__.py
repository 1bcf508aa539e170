"""What stands on the wire: names, headers, bodies, stories. Promises, pinned by golden tests."""
