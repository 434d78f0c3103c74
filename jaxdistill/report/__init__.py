"""What a person reads: tables on the terminal, and the page."""
