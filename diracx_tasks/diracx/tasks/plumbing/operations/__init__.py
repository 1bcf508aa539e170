"""What do operators ask, and what are they answered?"""
