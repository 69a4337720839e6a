"""Generation: from what a command asks for to a folder of images."""
