"""The checks of one training step, a file each."""
