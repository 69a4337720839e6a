"""Options of a command that say of images what prompts do not."""
