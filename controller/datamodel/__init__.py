"""Every key in the store and the JSON under it, version 1."""
