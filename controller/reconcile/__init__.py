"""Desired and actual state, their difference, and the loop that closes it."""
