"""The benchmark in miniature: small images and models, built from Debian packages. Run it from a clone."""
