"""Files: networks and records in files, writing of whole files, locks, and trials of files that may do harm."""
