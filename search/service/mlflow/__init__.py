"""MLflow's server as a child of the service, and how any MLflow server is reached.

May import nothing else of the service.
"""
