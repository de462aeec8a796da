"""The sampler's attention: captured, steered by gradients or by bias, recorded."""
