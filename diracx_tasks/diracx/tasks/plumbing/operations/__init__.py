"""What is the state of a mesh, and what may each of its users do?"""
