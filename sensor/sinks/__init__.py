"""Where alerts go: each sink maps an ALERT to one outside form."""
