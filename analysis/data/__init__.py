"""What is read: rows as a tidy frame, score files, the diagnosis and measurements of efficiency."""
