"""scikit-learn estimators for texts, on top of a run and a predictor. They do not know stores, servers or reports."""
