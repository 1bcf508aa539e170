"""The commands of `dlq`."""
