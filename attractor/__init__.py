"""Masks, background-attractor tokens and the loss that keeps background out of the embedding."""
