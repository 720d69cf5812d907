"""Programs to run by hand; each says in its first lines what it does."""
