"""Periodic tasks: how they are declared, when they are due, how they are run and reported."""
