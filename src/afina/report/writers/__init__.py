"""Sections and tables, written down: HTML, Markdown, the terminal, csv and json. Knows no record."""
