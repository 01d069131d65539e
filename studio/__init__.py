"""For studios: what may be released, and what must be forgotten."""
