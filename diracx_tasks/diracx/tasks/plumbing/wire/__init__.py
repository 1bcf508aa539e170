"""How do tasks look on the wire: names, headers, bodies, attempt records? Golden tests pin every format."""
