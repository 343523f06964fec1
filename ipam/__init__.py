"""Address management as values and decisions: pools, blocks, who holds which address.

Nothing here does input or output, reads a clock or draws a random number: every decision is a function of a view and a
request, so that every race between nodes can be replayed in a test.
"""
