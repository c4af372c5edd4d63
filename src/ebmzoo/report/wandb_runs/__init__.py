"""What goes to Weights & Biases: loggers, tables, and the report that compares runs."""
