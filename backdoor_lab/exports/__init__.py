"""What a victim can be written as, for use outside: one file a choice of `export`."""
