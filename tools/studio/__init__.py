"""The studio's benchmark: sweeps over Ray beside a bare loop, and what ten thousand subjects would take."""
