"""A recommendation: candidates are trained in turn within a number of minutes, and compared with baselines.

A candidate is a method with a learning rate on a backbone. The baselines, such as TF-IDF with logistic regression, use
no language model. The package does not know study files, tuning or `report`, which words the result.
"""
