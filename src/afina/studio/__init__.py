"""`afina studio`: the library in a browser, from a file of labelled texts to a served adapter.

A page shows facts of the library and names the command that gives the same; work that takes long is an `afina` command
in a process of its own (`command_process.py`), whose state is on disk. The package does not know how anything is
computed, and does not import `cli`.
"""
