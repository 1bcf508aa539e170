"""A small extension whose tasks are made with pydantic."""
