"""The channel graph: labels on tensor axes, a rule per operator, prices in closed form.

May import `networks`, `cost` and `rules`; runs no network.
"""
