"""Predict texts with adapters, evaluate the predictions, and check adapters by golden tests.

`afina.predicting` does not know training, runs or studies.
"""
