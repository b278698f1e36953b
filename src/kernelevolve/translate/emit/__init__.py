"""From planned kernels to Triton source: one module per kind of kernel, over a common reader of the algebra."""
