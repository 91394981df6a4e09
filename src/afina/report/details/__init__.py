"""Tables that only some reports need: heads fitted by scikit-learn, retention, and forecasts of `afina plan`.

The package `afina.report.details` executes no run and writes no file.
"""
