"""The process beside the service that does what needs torch, and the tasks it does.

Only code that runs in that process imports torch. May import `access` and what is below it.
"""
