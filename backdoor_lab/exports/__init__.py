"""What is written for use outside: a file or a folder for each choice of `export`."""
