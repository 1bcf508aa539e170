"""What does `execute()` ask for, and where does it come from?"""
