"""Which settings of tasks does the configuration of the mesh override, and how do processes follow it?"""
