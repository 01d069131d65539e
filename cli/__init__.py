"""The command line: the nodes without a host."""
