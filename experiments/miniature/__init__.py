"""A benchmark in miniature: small images and models that are made here, from packages that a registry ships."""
