"""The same convolutions, fast: by the Fourier transform of the point group, in plain PyTorch, C++ and Triton."""
