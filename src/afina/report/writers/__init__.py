"""Writers of sections and tables: HTML, Markdown, the terminal, CSV and JSON. They do not know how figures are made."""
