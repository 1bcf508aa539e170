"""How does an outcome become an ack, a nak or a term?"""
