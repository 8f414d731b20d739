"""Training: runs, their checkpoints and history, callbacks, several devices."""
