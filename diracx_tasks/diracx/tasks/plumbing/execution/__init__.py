"""Executing one task: registry, injection, locks, outcome. Knows no JetStream."""
