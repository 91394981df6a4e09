"""The published study that afina began with: its figures, and its claims tested. Knows not how a report is made."""
