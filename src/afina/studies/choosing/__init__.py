"""The recommendation of `afina choose`: candidates are trained within some minutes, and compared with baselines.

A candidate is a method with a learning rate on a backbone. The baselines, such as TF-IDF with logistic regression, use
no language model. The package `afina.studies.choosing` does not know (import) study files, tuning or `afina.report`,
which puts the recommendation into sentences.
"""
