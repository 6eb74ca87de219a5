"""The report of a run of all studies: one HTML page with a chapter per part of the talk, and how to repeat it.

The modules are imported one by one, because only the command that writes a report needs matplotlib.
"""
