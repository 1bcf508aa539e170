"""A nats-server of our own, which ends with its parent."""
