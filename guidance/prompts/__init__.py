"""Which tokens of an encoded prompt a phrase means."""
