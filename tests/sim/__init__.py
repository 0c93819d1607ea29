"""Whole managers' stores on a simulated clock, network and disk in one process, the same for the same seed."""
