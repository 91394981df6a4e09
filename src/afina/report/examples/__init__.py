"""Evaluation texts that a report shows one by one: texts on which methods disagree, and answers that are texts."""
