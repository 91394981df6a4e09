"""Tables that only some reports need: heads of scikit-learn, abstention, retention, forecasts of `afina plan`.

The package `afina.report.details` does not know (import) the modules that execute a run or write a report.
"""
