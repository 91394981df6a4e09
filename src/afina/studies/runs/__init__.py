"""One run: its description, memory and time forecast, execution on this or another machine, and record.

The package does not know studies, tuning or recommendations.
"""
