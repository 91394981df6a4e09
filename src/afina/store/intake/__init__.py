"""What comes in: limits, a strict look at files before anything reads them, bundles. Knows no store."""
