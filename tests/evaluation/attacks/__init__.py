"""Attacks that others wrote, driven through the service one picture at a time, and what counts as their success."""
