"""The options of the command line: what they are, what they may be, and how a mistake is said."""
