"""The commands `diracx-task-run dlq ...`."""
