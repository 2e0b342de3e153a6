"""The report of a model's variants: a page, a picture, and the same as JSON."""
