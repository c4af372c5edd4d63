"""Comparison of runs: records, protocols, tables and the HTML page."""
