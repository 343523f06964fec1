"""tortie-agent: the daemon that makes its host a router."""
