"""One run of a network under a dispatch mode that moves labels: records of it become a graph.

May import `graph` and what is below it.
"""
