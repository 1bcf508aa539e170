"""Which commands operate on dead letters?"""
