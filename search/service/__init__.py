"""The service: searches over HTTP, one process that queues, launches and shows, never trains.

Nothing in here imports torch, Ray or MLflow, except `workbench` in a process of its own: what a
service costs while it waits is memory.
"""
