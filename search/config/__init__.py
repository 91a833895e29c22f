"""Every class of settings with its defaults, limits and help, and the methods that settings name.

They are filled from TOML, flags, HTTP and Python alike. May import `storage` and what is below it.
"""
