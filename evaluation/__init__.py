"""Evaluation of generated images: generators, exact nearest neighbours, the memorization ratio, metrics, galleries."""
