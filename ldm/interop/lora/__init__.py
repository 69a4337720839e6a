"""LoRA files of any program, merged into the weights of a model."""
