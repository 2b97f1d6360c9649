"""How requests come in, and how their controllers are told of them."""
