"""The methods: one published method a file; the listing of this folder is the registry."""
