"""What came of searches: fronts, comparisons, correlations, and how people see them.

May import `trials` and what is below it.
"""
