"""One run: what the user asked for, what the run will cost, how and where it is executed, and its record.

The package does not know studies, tuning or recommendations.
"""
