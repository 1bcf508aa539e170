"""Which commands operate on locks?"""
