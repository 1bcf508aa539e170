"""What became of tasks that will not run again, and how do they come back?"""
