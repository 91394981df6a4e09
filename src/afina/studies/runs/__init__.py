"""One run: what is asked for, what it will cost, how and where it is carried out, and what is recorded of it.

Knows no study, no tuning and no recommendation.
"""
