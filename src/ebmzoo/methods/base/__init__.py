"""What every method is made of: the interface, its capabilities, optimization and averages."""
