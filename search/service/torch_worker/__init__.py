"""The process beside the service that does what needs torch, and the tasks that it does.

Only functions that are called in that process import torch. May import `access` and what is below
it.
"""
