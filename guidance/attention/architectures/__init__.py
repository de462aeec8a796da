"""One small adapter per model family: which blocks carry the layout, and how big their maps are."""
