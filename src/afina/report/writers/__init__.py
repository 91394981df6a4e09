"""Writers of a report's sections and tables as HTML, Markdown, terminal text, CSV and JSON."""
