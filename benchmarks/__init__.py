"""Speed and acceptance, measured; each figure says by which command."""
