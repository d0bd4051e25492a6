"""Random networks of integers as plain numbers, and what fires in them: by loops, by Brian2, and as graphs of snnc."""
