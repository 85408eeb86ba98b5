"""The kernels: C++ for this machine's processor, built on first use, and PyTorch's autograd over them."""
