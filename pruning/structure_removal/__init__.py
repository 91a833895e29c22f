"""Layers, residual branches and blocks: finding them, bridging them, removing them.

May import `networks` and `cost`.
"""
