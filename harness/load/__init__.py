"""Offered load: what is sent, and when."""
