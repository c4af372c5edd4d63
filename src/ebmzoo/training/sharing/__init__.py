"""Shared models: trained weights with their config and a model card, in a folder, in the package or on a hub."""
