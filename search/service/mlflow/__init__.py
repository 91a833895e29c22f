"""MLflow's own server as a child of the service, and the credentials to reach any MLflow server.

May import the files beside the rooms.
"""
