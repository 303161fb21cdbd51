"""Generators and coders that attacks train."""
