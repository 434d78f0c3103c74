"""What is played: tasks, and the pools that play them."""
