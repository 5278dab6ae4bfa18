"""Tuning: schedules that are measured to be faster than those that the cost model chooses, kept in a TOML file.

``signature`` names kernels, ``entries`` reads what was found, ``sites`` makes single kernels of a model run, ``space`` lists what may be
tried, ``measure`` compares, ``worker`` does so in a process of its own, ``store`` keeps the file, ``search`` leads.
"""
