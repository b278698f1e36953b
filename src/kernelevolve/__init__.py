"""KernelEvolve: searches for the fastest GPU kernel that can be proven correct, from a PyTorch reference."""
