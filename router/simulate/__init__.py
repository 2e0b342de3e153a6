"""Replays a trace of arrivals through a policy and simulated targets, by one clock."""
