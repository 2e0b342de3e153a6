"""The gateway's doors: each reads one API's bodies, and frames the answers as its clients expect them."""
