"""Messages: typed records that travel between processes, and how old ones are read.

A messages file stands beside a spec and is named there. What is made of it imports msgspec only.
"""
