"""Where runs and trials are carried out. Knows what a run is; nothing above knows which executor it has."""
