"""All that judges images: exact nearest neighbours, the memorization ratio, figures and galleries."""
