"""What a pruned model costs, counted and measured."""
