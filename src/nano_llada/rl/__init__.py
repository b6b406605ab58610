"""Drawing answers and rewarding them."""
