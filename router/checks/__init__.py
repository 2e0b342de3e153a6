"""Decisions looked at apart from traffic: test cases, explanations, what another policy would have done."""
