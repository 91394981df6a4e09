"""Tables that only some reports need: heads of scikit-learn, abstention, retention, forecasts of `afina plan`."""
