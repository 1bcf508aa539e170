"""DiracX tasks on NATS JetStream."""
