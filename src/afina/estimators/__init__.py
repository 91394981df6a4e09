"""scikit-learn estimators for texts; `afina.Run` trains them, and `afina.Predictor` makes their predictions.

This package does not know stores of adapters or reports.
"""
