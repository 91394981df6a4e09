"""Writers of a report's sections and tables as HTML, Markdown, terminal text, CSV and JSON.

The package `afina.report.writers` does not know how the figures of a report are computed.
"""
