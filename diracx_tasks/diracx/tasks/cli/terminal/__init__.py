"""What does a command show on a terminal, and in a pipe?"""
