"""Setting up a host for development, the demo and the benchmarks."""
