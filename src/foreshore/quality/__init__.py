"""How good an answer will be, before a model runs, and how sure it is after: learnt, and calibrated."""
