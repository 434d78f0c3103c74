"""A distillation run: its settings, its stages, and the chosen student read back."""
