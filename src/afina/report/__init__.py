"""Reports: the results of studies as sentences, tables, plots and pages. `Report.of(results)` is the entry point.

The package reads the records of studies. The package does not know how a run is executed, and loads without torch.
"""
