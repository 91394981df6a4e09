"""scikit-learn estimators for texts: a run trains, a predictor predicts. The package knows no stores or reports."""
