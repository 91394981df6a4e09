"""Reports: the results of studies as sentences, tables, plots and pages. `Report.of(results)` is the entry point.

The package reads the records of studies. It does not know how a run is made, and it starts without torch.
"""
