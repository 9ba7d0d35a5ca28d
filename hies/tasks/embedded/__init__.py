"""Tasks that are made on this machine, from installed packages, without any download."""
