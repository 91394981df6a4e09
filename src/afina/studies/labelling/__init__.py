"""The labels of a task: which labels are probably wrong, and which texts to label next.

The package `labelling` changes no file of the user, and does not know reports and commands.
"""
