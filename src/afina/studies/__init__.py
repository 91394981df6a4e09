"""What is asked, carried out and recorded: runs, studies, tuning, recommendations, costs.

Holds intentions and facts; knows no words, tables or pages, which are `report`'s. Only what carries a run out or
foresees one needs torch.
"""
