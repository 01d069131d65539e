"""The diffusers back end: the same library without a host."""
