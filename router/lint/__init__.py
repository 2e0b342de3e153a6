"""What is wrong with a policy before any request shows it, and proofs over all requests."""
