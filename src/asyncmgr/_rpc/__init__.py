"""Versioned calls: declared with `@rpc`, validated, carried as messages, served and made."""
