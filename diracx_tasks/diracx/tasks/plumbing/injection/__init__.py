"""Which dependencies does `execute()` ask for, and how does each execution get them?"""
