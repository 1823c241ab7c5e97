"""holderjax: multimodal variational autoencoders with exact Hölder pooling, in JAX and Flax."""

__version__ = "0.1.0"
