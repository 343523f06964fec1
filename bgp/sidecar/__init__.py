"""The ExaBGP side: the process ExaBGP runs, the socket it serves, and the launcher of both."""
