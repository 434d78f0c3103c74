"""Frozen teachers: reading other people's files, and giving ours back."""
