"""Schedules: how the loops of a definition are ordered, cut, vectorized and shared between workers."""
