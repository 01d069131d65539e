"""Photos to latents, the training loop, and concept files."""
