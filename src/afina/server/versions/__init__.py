"""Which version answers for each name: versions in production, canaries, shadows, golden tests, preloading.

Changes in the store are read again and again. The package does not know protocols or the texts of clients.
"""
