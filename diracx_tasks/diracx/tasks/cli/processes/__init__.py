"""How do long-running commands start, stop, report their health, and run as children of `dev`?"""
