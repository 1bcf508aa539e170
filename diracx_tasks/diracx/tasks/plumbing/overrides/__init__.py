"""What does the configuration of the mesh say in place of the code?"""
