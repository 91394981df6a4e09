"""Files, data sets of the Hub and fetched packages become splits. Readers do not know addresses, tokens or models."""
