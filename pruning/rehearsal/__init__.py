"""Holds a channel graph against the network, run with fewer channels, within a time limit.

May import `tracer`, `surgery` and what is below them.
"""
