"""Reads PyTorch modules: `torch.fx` records what `forward` does, and one walk over that makes a network of it."""
