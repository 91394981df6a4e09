"""Where the bytes are: a directory, or a bucket. Knows neither what is in them nor what holds them."""
