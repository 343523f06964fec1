"""The BGP speaker, as the agent reaches it."""
