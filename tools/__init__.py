"""What a developer's machine needs around the pack: the environment, the host, a running server. Never shipped."""
