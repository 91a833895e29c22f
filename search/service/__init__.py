"""The service: searches over HTTP, one process that queues, launches and shows, never trains.

`server.py` puts it together. Rooms, from the lowest to the highest, each importing only those
before it: `database`, `access`, `torch_worker`, `mlflow`, `queue`, `api`; beside them lie the
settings of a service, its log, problem details, the folder of searches and the schemas of the
API. Nothing in here imports torch, Ray or MLflow, except `torch_worker` in a process of its own:
what a service costs while it waits is memory.
"""
