"""Files: folders that a program writes into, tensors, pictures, text."""
