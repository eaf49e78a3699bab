// Holds the precompiled LibTorch header that every file using LibTorch shares.
