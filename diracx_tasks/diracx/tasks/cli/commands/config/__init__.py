"""Which commands operate on the configuration?"""
