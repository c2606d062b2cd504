"""The C++ library of native kernels, and what loads it."""
