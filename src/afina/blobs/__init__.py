"""Files under content addresses, in a directory or a bucket. Knows neither what the files hold nor who keeps them."""
