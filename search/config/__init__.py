"""Every class of settings with its defaults and help, and the methods that settings name.

Filled from TOML, flags, HTTP and Python alike. May import `storage` and what is below it.
"""
