"""Operator definitions, one family a file; see ``registry``."""
