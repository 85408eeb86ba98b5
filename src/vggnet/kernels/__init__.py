"""The kernels: C++ built for this machine's processor on first use, and autograd over them."""
