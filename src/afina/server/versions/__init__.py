"""Which version answers for each name: versions in production, canaries, shadows, golden tests, preloading.

Follows the store. Does not know protocols or the texts of clients.
"""
