"""Arms -> plots: methods compared, and what was predicted. Knows no page and no file.

What each shows is in docs/reference/figures.md. Every plot has a caption and a text for those who do not see it; a
method has one colour and one marker in all. Holds all of matplotlib.
"""
