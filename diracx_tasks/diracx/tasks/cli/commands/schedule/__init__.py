"""Which commands operate on the schedules of periodic tasks?"""
