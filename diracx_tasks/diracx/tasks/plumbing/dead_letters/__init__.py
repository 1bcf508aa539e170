"""Which tasks will not run again, and how does an operator read, replay or remove them?"""
