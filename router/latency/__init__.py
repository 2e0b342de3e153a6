"""How long each target will take: a distribution for each request, learned from every answer."""
