"""Routing as values and decisions: peers, announcements, what was learned and what of it is accepted.

Only `bgp.sidecar` touches the world: it is the program that ExaBGP runs as its API process.
"""
