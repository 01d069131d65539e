"""Seeded scripts that pre-train the demo checkpoint on the rendered world."""
