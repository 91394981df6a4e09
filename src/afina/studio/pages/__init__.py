"""The pages of the studio: each module has a page's route, its facts and its forms. It knows no other page."""
