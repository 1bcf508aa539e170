"""The one door to NATS JetStream: everything that speaks its protocol, and nothing that executes tasks."""

from diracx.tasks.plumbing.jetstream import (
    client_library as client_library,  # first: it tells what to install when nats-py is missing
)
from diracx.tasks.plumbing.jetstream.broker import JetStreamBroker

__all__ = ["JetStreamBroker"]
