"""The routes, one file for each part of the API.

May import all of `api` but the app; a route file imports no other one.
"""
