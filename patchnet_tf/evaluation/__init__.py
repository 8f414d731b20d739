"""How good a classifier and its maps are."""
