"""The training loop, its state, losses, optimizer and previews."""
