"""The trainer, checkpoints, configurations, the watchdog and other callbacks of a run."""
