"""The ASGI app: components, dependencies and middlewares that the routes share, and the routes.

May import all other rooms of the service; `server.py` alone imports it.
"""
