"""A service: managers, the runner and the transport under one life cycle on one host."""
