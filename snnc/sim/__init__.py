"""Executors of one graph at any stage; nothing else in the project steps a neuron."""
