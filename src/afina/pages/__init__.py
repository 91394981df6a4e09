"""Parts that the pages of the report and of the studio share: templates, style and script.

The package does not know what a page shows.
"""
