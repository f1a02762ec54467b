"""A page in the browser, and the socket that feeds it, on one port. Needs the extra `serve`."""
