"""A model on a task: fine-tuned, scored, pruned and evaluated, each thing once."""
