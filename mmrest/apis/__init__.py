"""mmrest from Python: pictures of what a run has learnt, and what networks take."""
