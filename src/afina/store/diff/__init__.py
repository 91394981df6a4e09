"""What differs between two adapters: manifests, effective weights, answers. Knows no store; computes with no model."""
