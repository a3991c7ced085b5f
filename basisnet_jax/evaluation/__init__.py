"""What a trained network gets right, what it costs, and where to stop early."""
