"""Find, gate and observe the heads of a model; where their weights are; which of them survive pruning."""
