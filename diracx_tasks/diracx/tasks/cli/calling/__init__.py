"""How does `call` execute a task in this process?"""
