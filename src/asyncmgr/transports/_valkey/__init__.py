"""Stores in Redis or Valkey: `engine` on `store` on `feed` on `records` on `link` on `connection`.

A `feed` follows a store. `options` reads the URL, `scripts` are what the server runs, and `problems` are its errors in
our words.
"""
