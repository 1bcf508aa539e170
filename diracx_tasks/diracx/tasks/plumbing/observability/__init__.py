"""What does a process show of its work: spans, metrics, log fields, health?"""
