"""tortiectl: one noun a module."""
