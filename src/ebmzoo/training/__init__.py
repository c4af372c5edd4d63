"""What keeps a run alive: the trainer, checkpoints, the watchdog, callbacks that draw."""
