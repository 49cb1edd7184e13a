"""Triton kernels of the denoiser's trajectory. Importing a module of this package imports triton."""
