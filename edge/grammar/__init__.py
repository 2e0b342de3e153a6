"""Grammars that an answer follows: JSON Schema and regular expressions to GBNF, and GBNF while tokens are drawn."""
