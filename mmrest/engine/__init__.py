"""What a run needs beyond mmengine."""
