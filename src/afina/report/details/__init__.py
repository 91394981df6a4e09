"""Tables and plots of measurements that only some runs have: fitted heads, retention.

The package does not know how a run is executed or how a report is written.
"""
