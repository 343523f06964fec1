"""Everything that touches the world: the store, the kernel, the speaker, and the programs made of them."""
