"""Reports: the results of studies as sentences, tables, plots and pages. `Report.of(results)` is the entry point.

The package `afina.report` reads the records of finished runs and can be imported without torch. The package does not
know (import) the modules that execute a run.
"""
