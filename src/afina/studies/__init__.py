"""What is asked, carried out and recorded: runs, studies, tuning, recommendations, costs.

Holds intentions and facts; knows no words, tables or pages, which are `report`'s. Starts without torch.
"""
