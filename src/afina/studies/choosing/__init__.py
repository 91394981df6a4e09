"""A recommendation: candidates are trained in turn within a number of minutes and compared with simple baselines.

The baselines need no language model. The package knows runs and their records. It does not know study files, tuning, or
how a recommendation is worded: `report` words it.
"""
