"""Estimators in scikit-learn's manner, over a run and a predictor. They know no store, no server and no report."""
