"""Routes, links and namespaces of the Linux kernel, over netlink."""
