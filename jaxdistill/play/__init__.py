"""Policies at play: pools stepped together, states collected, games measured and recorded."""
