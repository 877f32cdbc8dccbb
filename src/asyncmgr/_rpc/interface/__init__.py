"""The interface of a service as data, and how two versions of it differ.

Read `diff` first: it compares two `info` documents and says which version must move. `schema_diff` compares two JSON
Schemas for it. `signatures` writes JSON Schemas as Python type hints. All three are pure.

May import `_rpc.versions` and what is below `_rpc`; the rest of `_rpc` does not import it.
"""
