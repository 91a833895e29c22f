"""Multipliers on channels: where they are consumed, a gate of zero is a removed channel.

May import `graph`, `selection` and what is below them.
"""
