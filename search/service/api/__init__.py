"""The ASGI app: what the routes share, middlewares, and the routes.

May import all other rooms of the service; only `server.py` imports it.
"""
