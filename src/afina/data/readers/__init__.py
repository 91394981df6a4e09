"""Files, the Hub and fetched packages to splits. Knows no address, no token and no model."""
