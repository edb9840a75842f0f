"""mmrest from Python: pictures of what a run has learnt."""
