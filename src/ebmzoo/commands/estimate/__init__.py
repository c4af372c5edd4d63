"""What a config costs before anything is run: arithmetic and memory, counted from the shapes of fake tensors."""
