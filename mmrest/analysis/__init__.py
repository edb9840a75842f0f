"""What networks compute and cost: operations, time, memory, attention, receptive fields."""
