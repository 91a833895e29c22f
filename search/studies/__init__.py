"""Whole studies from settings to results: searches, families, correlations, single trials again.

May import every room but those of people: `service`, `commands`, `client`.
"""
