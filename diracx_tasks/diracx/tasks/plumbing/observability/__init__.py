"""What does a process tell of itself: spans, metrics, log fields, health?"""
