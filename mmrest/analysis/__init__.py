"""Analysis of networks: MACs, time, memory, attention, receptive fields."""
