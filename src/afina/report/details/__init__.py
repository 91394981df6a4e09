"""Tables and plots of measurements that only some runs have: fitted heads, retention.

Knows records and arms, and does not know how a run is made or how a report is written.
"""
