"""Analysis of networks: operations, time, memory, attention, receptive fields."""
