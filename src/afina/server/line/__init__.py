"""From accepted texts to outcomes: works, the fair queue in which they wait, and the one thread that computes them.

Knows no protocol and no store.
"""
