"""Extensions of mmengine for training and testing."""
