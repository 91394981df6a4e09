"""A recommendation: candidates trained in turn within a number of minutes, beside floors that need no language model.

Knows runs and their records; no study file, no tuning, and no words of the answer, which are `report`'s.
"""
