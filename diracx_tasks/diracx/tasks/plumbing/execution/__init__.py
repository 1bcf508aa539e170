"""How does one task execute: under its locks, with its dependencies, to an outcome? JetStream is unknown here."""
