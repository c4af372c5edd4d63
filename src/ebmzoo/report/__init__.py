"""What people read: pictures, the scorecard, the loggers."""
