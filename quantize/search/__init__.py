"""The mix of types that costs least within a bound: measured, solved as a knapsack, measured again."""
