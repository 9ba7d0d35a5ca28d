"""From a command line to its jobs, and to the processes that do them."""
