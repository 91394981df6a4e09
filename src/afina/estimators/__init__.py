"""scikit-learn estimators for texts; `afina.Run` trains them, and `afina.Predictor` makes their predictions."""
