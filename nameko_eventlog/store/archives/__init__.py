"""
Archives: event logs in files, out of a database and into one.
"""
