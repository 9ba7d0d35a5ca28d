"""How things are called: names of curves and tasks, which curve stands for a criterion, captions and numbers."""
