"""The page at `/`: a sentence to what all adapters of a client say of it, and what the server does. Knows no model."""
