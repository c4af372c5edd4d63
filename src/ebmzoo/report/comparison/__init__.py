"""Runs held against each other: records, protocols, tables and the HTML page."""
