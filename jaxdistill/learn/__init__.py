"""Learning, from experts' outputs and from rewards, and what is learnt from."""
