"""The coordinator (a Flower ServerApp) and the matching service."""
