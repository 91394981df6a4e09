"""The pages of the studio: each module has a page's route, its facts and its forms.

Some pages use functions of another page, such as `arguments_of` of the page Data.
"""
