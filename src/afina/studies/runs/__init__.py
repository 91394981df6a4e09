"""One run: its description, the forecast of its memory and time, its execution, and its record.

The package `afina.studies.runs` does not know (import) studies, tuning or recommendations.
"""
