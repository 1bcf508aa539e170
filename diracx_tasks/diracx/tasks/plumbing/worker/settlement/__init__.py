"""How does an outcome become an ack, a nak or a term?

settlement.py does it; lock_backoff.py says how long a task waits for its lock, nak_batcher.py sends delayed naks
together, and ack_replay.py sends the latest answers again after an outage.
"""
