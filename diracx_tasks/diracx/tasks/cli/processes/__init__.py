"""What runs until it is stopped: children, signals, health, telemetry."""
