"""The quality benchmark: what leaks, what is learnt and what is obeyed, counted in a world where the truth is known."""
