"""Many adapters on one frozen model: requests for all of them in the same packed rows. Knows no training and no study.

`engine` is the door; the others are behind it.
"""
